//! The beginning of a file or folder, for the detection of its format.

use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::columns::header_of;
use super::error::TraceError;
use super::input::files_of;

const SAMPLE_BYTES: u64 = 1 << 20;
const SHOWN_CHARS: usize = 80;

/// Beginning of a file or folder.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// Names of the files in a folder.
    pub(crate) files: Vec<String>,
    /// Columns of the first line.
    pub(crate) columns: Vec<String>,
    /// Names of the fields of the first JSON object, as far as the sample has them.
    pub(crate) keys: Vec<String>,
    /// Names of those fields that hold objects.
    pub(crate) objects: Vec<String>,
    /// True if that object is the first of a list.
    pub(crate) is_list: bool,
    /// First characters, for errors.
    pub(crate) start: String,
}

impl Sample {
    /// Returns whether the first object has all these fields.
    pub(crate) fn has(&self, fields: &[&str]) -> bool {
        fields.iter().all(|field| self.keys.iter().any(|key| key == field))
    }

    pub(crate) fn of(path: &Path) -> Result<Self, TraceError> {
        if !path.is_dir() {
            return Self::of_file(path);
        }
        let files = files_of(path)?;
        let names: Vec<String> = files
            .iter()
            .map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        let first = files.iter().zip(&names).find(|(_, name)| {
            let is_client = name.ends_with("-trace.csv") || name.ends_with("-dataset.json");
            (name.ends_with(".json") || name.ends_with(".jsonl")) && !is_client
        });
        let inside = match first {
            Some((file, _)) => Self::of_file(file)?,
            None => Self {
                start: names.join(", ").chars().take(SHOWN_CHARS).collect(),
                ..Self::default()
            },
        };
        Ok(Self { files: names, columns: Vec::new(), ..inside })
    }

    fn of_file(path: &Path) -> Result<Self, TraceError> {
        let io = TraceError::io(path);
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(&io)?;
        file.take(SAMPLE_BYTES).read_to_end(&mut bytes).map_err(&io)?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.is_empty() {
            return Err(TraceError::Empty { path: path.to_owned() });
        }
        let line = text.lines().next().unwrap_or_default();
        let mut sample = Self {
            columns: header_of(line.get(..4096).unwrap_or(line)),
            start: line.chars().take(SHOWN_CHARS).collect(),
            ..Self::default()
        };
        let mut parser = serde_json::Deserializer::from_str(text);
        // A sample that is cut off ends in an error, and so does text that is not JSON. The fields
        // found before the error count.
        FirstObject { sample: &mut sample }.deserialize(&mut parser).ok();
        Ok(sample)
    }
}

/// A reader of the first object of a text, or of a list, that notes its fields in `sample`.
struct FirstObject<'a> {
    sample: &'a mut Sample,
}

impl<'de> DeserializeSeed<'de> for FirstObject<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FirstObject<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(key) = object.next_key::<String>()? {
            self.sample.keys.push(key.clone());
            if object.next_value::<Value>()?.is_object() {
                self.sample.objects.push(key);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.sample.is_list = true;
        list.next_element_seed(self)?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
