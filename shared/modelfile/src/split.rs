//! GGUF files that come in parts: `name-00001-of-00003.gguf` and its siblings.

use crate::error::ModelFileError;
use crate::value::Metadata;
use std::path::{Path, PathBuf};

const PARTS_MAX: usize = 10_000;

/// The fields by which a part names its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Index of the part, from 0.
    pub(crate) index: usize,
    /// Of how many.
    pub(crate) count: usize,
    /// Tensors in all parts together, if the file says.
    pub(crate) tensors: Option<usize>,
}

impl Split {
    /// Reads the fields; nothing for a file that is whole.
    pub(crate) fn read(metadata: &Metadata) -> Result<Option<Self>, ModelFileError> {
        let count = metadata.count_or_zero("split.count", PARTS_MAX)?.unwrap_or(1);
        let index = metadata.count_or_zero("split.no", PARTS_MAX)?.unwrap_or(0);
        if index >= count {
            let problem = format!("is {index}, not below split.count {count}");
            return Err(ModelFileError::field("split.no", problem));
        }
        let tensors = metadata.count_or_zero("split.tensors.count", usize::MAX / 2)?;
        Ok((count > 1).then_some(Self { index, count, tensors }))
    }

    /// Returns the paths of all parts, from the path of this one.
    pub(crate) fn paths(self, path: &Path) -> Result<Vec<PathBuf>, ModelFileError> {
        let Self { index, count, .. } = self;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.strip_suffix(&suffix(index, count)).ok_or_else(|| {
            let problem = format!("is not named …{}, as its header says", suffix(index, count));
            ModelFileError::part(path, problem)
        })?;
        let part = |index| path.with_file_name(format!("{stem}{}", suffix(index, count)));
        let paths: Vec<PathBuf> = (0..count).map(part).collect();
        match paths.iter().find(|path| !path.exists()) {
            Some(missing) => {
                let problem = format!("is missing; {name} is part {} of {count}", index + 1);
                Err(ModelFileError::part(missing, problem))
            }
            None => Ok(paths),
        }
    }
}

fn suffix(index: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", index + 1)
}

/// Returns the names of all parts of the file called `name`, or `name` alone when it is not called like a
/// part.
pub fn gguf_part_names(name: &str) -> Vec<String> {
    sibling_names(name).unwrap_or_else(|| vec![name.to_owned()])
}

/// Returns the names of all parts, if `name` is that of a part.
fn sibling_names(name: &str) -> Option<Vec<String>> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, index) = rest.rsplit_once('-')?;
    let (index, count) = (five_digits(index)?, five_digits(count)?);
    let is_part = (1..=count).contains(&index) && count <= PARTS_MAX;
    is_part.then(|| (0..count).map(|part| format!("{stem}{}", suffix(part, count))).collect())
}

fn five_digits(text: &str) -> Option<usize> {
    let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_known_by_its_name() {
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        for part in parts {
            assert_eq!(gguf_part_names(part), parts);
        }
        let whole = [
            "m.gguf",
            "m-1-of-2.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "m-00001-of-99999.gguf",
            "m-00001-of-00002.bin",
            "m-0000é-of-00002.gguf",
            "",
        ];
        for name in whole {
            assert_eq!(gguf_part_names(name), [name]);
        }
    }
}
