//! The safetensors files that make a model: the shards that an index names, or the files there.

use crate::companion;
use crate::error::ModelFileError;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The index that Hugging Face's files have when the tensors are in several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// The files of a model, and which tensor the index says is in which.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    pub(crate) files: Vec<PathBuf>,
    /// From a tensor's published name to its file in `files`; none where there is no index.
    pub(crate) places: Option<BTreeMap<String, usize>>,
    /// The index itself, which belongs to the model too.
    pub(crate) index: Option<PathBuf>,
}

impl Shards {
    /// Finds the files of the model in `directory`, or of the one that `file` in it belongs to.
    pub(crate) fn find(directory: &Path, file: Option<&Path>) -> Result<Self, ModelFileError> {
        let index = directory.join(INDEX);
        if let Some(shards) = Self::by_index(directory, &index)?
            && file.is_none_or(|file| file == index || shards.files.iter().any(|own| own == file))
        {
            return Ok(shards);
        }
        let files = match file {
            Some(file) => vec![file.to_path_buf()],
            None if directory.join(WHOLE).is_file() => vec![directory.join(WHOLE)],
            None => all_in(directory)?,
        };
        Ok(Self { files, places: None, index: None })
    }

    fn by_index(directory: &Path, index: &Path) -> Result<Option<Self>, ModelFileError> {
        let Some(json) = companion::read_json(index)? else { return Ok(None) };
        let map =
            json["weight_map"].as_object().filter(|map| !map.is_empty()).ok_or_else(|| {
                ModelFileError::field(
                    format!("{INDEX}: weight_map"),
                    "is not an object with tensors",
                )
            })?;
        let mut named = Vec::with_capacity(map.len());
        for (tensor, file) in map {
            let file = file.as_str().filter(|file| is_plain_name(file)).ok_or_else(|| {
                let problem = format!("lies in {file}, which is not the name of a file beside it");
                ModelFileError::field(format!("{INDEX}: {tensor}"), problem)
            })?;
            named.push((tensor, file));
        }
        let names: BTreeSet<&str> = named.iter().map(|(_, file)| *file).collect();
        let files: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
        if let Some(missing) = files.iter().find(|file| !file.is_file()) {
            return Err(ModelFileError::part(missing, format!("is missing; {INDEX} names it")));
        }
        let numbers: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
        let places = named.into_iter().map(|(tensor, file)| (tensor.clone(), numbers[file]));
        Ok(Some(Self { files, places: Some(places.collect()), index: Some(index.to_path_buf()) }))
    }

    /// Checks that `tensor`, found in file number `found`, is where the index says.
    pub(crate) fn check_place(&self, tensor: &str, found: usize) -> Result<(), ModelFileError> {
        let Some(places) = &self.places else { return Ok(()) };
        let lies = self.files[found].display();
        match places.get(tensor) {
            Some(&said) if said == found => Ok(()),
            Some(&said) => {
                let said = self.files[said].display();
                let problem = format!("lies in {lies}, the index says {said}");
                Err(ModelFileError::tensor(tensor, problem))
            }
            None => Err(ModelFileError::tensor(
                tensor,
                format!("lies in {lies}, the index does not know it"),
            )),
        }
    }

    /// Checks that every tensor of the index was found; `is_found` is asked by published name.
    pub(crate) fn check_all(&self, is_found: impl Fn(&str) -> bool) -> Result<(), ModelFileError> {
        let Some(places) = &self.places else { return Ok(()) };
        match places.iter().find(|(tensor, _)| !is_found(tensor)) {
            Some((tensor, &said)) => {
                let said = self.files[said].display();
                Err(ModelFileError::tensor(tensor, format!("is not in {said}, as the index says")))
            }
            None => Ok(()),
        }
    }
}

/// Returns true if a name stays within its directory: one component, and no way up.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(part)) if part == name)
        && components.next().is_none()
        && !name.contains(['\\', '\0'])
}

fn all_in(directory: &Path) -> Result<Vec<PathBuf>, ModelFileError> {
    let entries =
        std::fs::read_dir(directory).map_err(|error| ModelFileError::io(directory, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| ModelFileError::io(directory, error))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let problem = "holds no model; expected *.safetensors with config.json and tokenizer.json, \
                       or the path of a GGUF file";
        return Err(ModelFileError::part(directory, problem));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::is_plain_name;

    #[test]
    fn only_plain_names_stay_within_the_directory() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "../x", "a/b", "/x", "a/", "./a", "a\\b", "a\0b"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }
}
