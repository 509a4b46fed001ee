//! Progress as lines: one for every tenth of a file.

use super::HubEvent;

/// Turns events into lines for people, few enough for a log.
#[derive(Debug, Default)]
pub struct Tenths {
    file: String,
    reported: u64,
}

impl Tenths {
    /// The line for `event`, if it is worth one.
    pub fn line(&mut self, event: &HubEvent) -> Option<String> {
        let (file, done, total) = match event {
            HubEvent::Note(note) => return Some(note.clone()),
            HubEvent::Bytes { file, done, total } => (file, *done, *total),
        };
        let tenths = 10 * done / total.max(1);
        if *file == self.file && tenths <= self.reported {
            return None;
        }
        self.file.clone_from(file);
        self.reported = tenths;
        let megabytes = total as f64 / 1e6;
        Some(format!("fetching {file}: {} % of {megabytes:.1} MB", 10 * tenths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_of_every_file_is_reported_once() {
        let mut tenths = Tenths::default();
        let mut lines = Vec::new();
        for file in ["a", "b"] {
            for done in (0..=2_000_000).step_by(50_000) {
                let event = HubEvent::Bytes { file: file.into(), done, total: 2_000_000 };
                lines.extend(tenths.line(&event));
            }
        }
        assert_eq!(lines.len(), 22);
        assert_eq!(lines[0], "fetching a: 0 % of 2.0 MB");
        assert_eq!(lines[10], "fetching a: 100 % of 2.0 MB");
        assert_eq!(lines[15], "fetching b: 40 % of 2.0 MB");
        let note = HubEvent::Note("cut off".into());
        assert_eq!(tenths.line(&note).as_deref(), Some("cut off"));
        let empty = HubEvent::Bytes { file: "c".into(), done: 0, total: 0 };
        assert_eq!(tenths.line(&empty).as_deref(), Some("fetching c: 0 % of 0.0 MB"));
    }
}
