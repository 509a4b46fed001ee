//! `docs/configuration.md`: every key with its meaning, unit, values and default.

use std::fmt::Write as _;

use super::effective::Entry;
use super::error::SettingsError;
use super::key::Key;
use super::schema::Settings;
use super::sources::Sources;

const HEAD: &str = "# Configuration\n\n\
    Settings come from four sources. Later ones win:\n\n\
    1. The defaults below.\n\
    2. A TOML file: `--config FILE`, else `$TANDEM_CONFIG`, else `tandem.toml` in the working \
    directory. Keys are grouped in sections: `gateway.listen` is `listen` in `[gateway]`.\n\
    3. Environment variables: `gateway.listen` is `TANDEM_GATEWAY__LISTEN`, with two underscores \
    between section and key. An empty variable is not set. The variables that Kubernetes sets for a \
    Service named `tandem` are ignored.\n\
    4. Flags: `--set gateway.listen=0.0.0.0:80`, and a flag of its own for the most usual keys \
    (`--nats`, `--model`, `--engine`, `--device`, `--threads`, `--listen`).\n\n\
    `tandem config` prints every key with its value and its source. An unknown key is an error that \
    names the nearest known one.\n\n\
    These variables of OpenTelemetry stand for settings and are weaker than our own: \
    `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_CERTIFICATE`, \
    `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `OTEL_EXPORTER_OTLP_CLIENT_KEY`, and the same with \
    `_TRACES_`. A value that Tandem cannot use costs the traces and a warning, not the start.\n\n\
    Written by `tandem config --describe > docs/configuration.md`; a test fails when it is out of \
    date.\n";

/// Returns the page that describes every setting, in Markdown.
pub fn describe() -> Result<String, SettingsError> {
    let defaults = super::load(&Sources::default())?.entries;
    let mut page = HEAD.to_owned();
    let mut last_section = None;
    for key in Settings::default().keys() {
        let section = key.key.rsplit_once('.').map_or("", |(section, _)| section).to_owned();
        if last_section.as_ref() != Some(&section) {
            let title = if section.is_empty() { "Top level" } else { &format!("`[{section}]`") };
            let _ = write!(page, "\n## {title}\n\n");
            page += "| key | meaning | unit | values | default |\n|---|---|---|---|---|\n";
            last_section = Some(section);
        }
        page += &row(&key, &defaults);
    }
    Ok(page)
}

fn row(key: &Key, defaults: &[Entry]) -> String {
    let default = defaults.iter().find(|entry| entry.key == key.key);
    let default = match default.map_or("", |entry| entry.value.as_str()) {
        "" => String::new(),
        value => format!("`{value}`"),
    };
    let Key { key: name, meaning, expected, .. } = key;
    format!("| `{name}` | {meaning} | {} | {expected} | {default} |\n", key.unit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_that_of_the_schema() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap();
        let page = describe().unwrap();
        for (line, (old, new)) in written.lines().zip(page.lines()).enumerate() {
            let hint = "`tandem config --describe > docs/configuration.md`";
            assert_eq!(old, new, "line {}: {hint}", line + 1);
        }
        assert_eq!(written, page, "`tandem config --describe > docs/configuration.md`");
    }

    #[test]
    fn every_key_has_a_row_with_meaning_values_and_default() {
        let page = describe().unwrap();
        let keys = Settings::default().keys();
        assert_eq!(page.matches("\n| `").count(), keys.len());
        let row = |key: &str| {
            let start = format!("| `{key}` |");
            page.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
        };
        assert!(row("gateway.max_inflight").ends_with("| 1 to 65536 | `256` |"), "{page}");
        assert!(row("gateway.request_timeout_ms").contains("| milliseconds |"), "{page}");
        assert!(row("isa").contains("auto, avx512, avx2 or portable"), "{page}");
    }
}
