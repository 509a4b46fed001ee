//! Where every tensor of a model lies, checked, and how one is read.

use crate::dtype::{DType, TensorData};
use crate::error::ModelFileError;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Dimensions a tensor may have.
pub(crate) const DIMENSIONS_MAX: usize = 4;

/// One tensor's place.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) file_index: usize,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// From the start of the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// An open file of a model.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

impl Part {
    pub(crate) fn open(path: &std::path::Path) -> Result<Self, ModelFileError> {
        let file = File::open(path).map_err(|error| ModelFileError::io(path, error))?;
        let metadata = file.metadata().map_err(|error| ModelFileError::io(path, error))?;
        Ok(Self { path: path.to_path_buf(), file, bytes: metadata.len() })
    }
}

/// All tensors of a model by name, in one or several files.
#[derive(Debug, Default)]
pub(crate) struct TensorTable {
    pub(crate) parts: Vec<Part>,
    entries: BTreeMap<String, Entry>,
}

impl TensorTable {
    /// An empty table over one file.
    pub(crate) fn over(part: Part) -> Self {
        Self { parts: vec![part], entries: BTreeMap::new() }
    }

    /// Adds a tensor after checking its shape and its place in the file; `parts` must hold its file.
    pub(crate) fn insert(&mut self, name: &str, entry: Entry) -> Result<(), ModelFileError> {
        let fail = |problem: String| Err(ModelFileError::tensor(name, problem));
        if entry.shape.is_empty() || entry.shape.len() > DIMENSIONS_MAX {
            return fail(format!(
                "has {} dimensions, not 1 to {DIMENSIONS_MAX}",
                entry.shape.len()
            ));
        }
        if entry.shape.contains(&0) {
            return fail(format!("has a dimension of zero in {:?}", entry.shape));
        }
        match entry.dtype.tensor_bytes(&entry.shape) {
            Some(bytes) if bytes == entry.bytes => {}
            Some(bytes) => {
                return fail(format!(
                    "shape {:?} of {:?} needs {bytes} bytes, the file gives {}",
                    entry.shape, entry.dtype, entry.bytes
                ));
            }
            None => {
                return fail(format!("shape {:?} cannot be {:?}", entry.shape, entry.dtype));
            }
        }
        let end = self.parts[entry.file_index].bytes;
        if entry.offset.checked_add(entry.bytes).is_none_or(|last| last > end) {
            return fail(format!(
                "bytes {}..+{} lie outside the file of {end}",
                entry.offset, entry.bytes
            ));
        }
        if self.entries.insert(name.to_owned(), entry).is_some() {
            return fail("occurs twice".into());
        }
        Ok(())
    }

    /// Refuses tensors that share bytes.
    pub(crate) fn check_overlap(&self) -> Result<(), ModelFileError> {
        let mut places: Vec<(usize, u64, u64, &str)> = self
            .entries
            .iter()
            .map(|(name, e)| (e.file_index, e.offset, e.offset + e.bytes, name.as_str()))
            .collect();
        places.sort_unstable();
        for pair in places.windows(2) {
            let [(file, _, end, first), (next_file, start, _, second)] = pair else { continue };
            if file == next_file && start < end {
                return Err(ModelFileError::tensor(*second, format!("overlaps tensor {first}")));
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    pub(crate) fn read(&self, name: &str) -> Result<TensorData, ModelFileError> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| ModelFileError::tensor(name, "is not in the file"))?;
        let part = &self.parts[entry.file_index];
        let mut bytes = vec![0; entry.bytes as usize];
        part.file
            .read_exact_at(&mut bytes, entry.offset)
            .map_err(|error| ModelFileError::io(&part.path, error))?;
        Ok(TensorData { dtype: entry.dtype, shape: entry.shape.clone(), bytes })
    }
}
