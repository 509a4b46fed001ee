//! The places of all tensors of a model, checked, and the way to read one.

use crate::dtype::DType;
use crate::error::ModelFileError;
use crate::tensor::TensorData;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
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

    /// Counts the values of all tensors.
    pub(crate) fn values(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| entry.shape.iter().map(|&size| size as u64).product::<u64>())
            .sum()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    pub(crate) fn read(&self, name: &str) -> Result<TensorData, ModelFileError> {
        let mut tensor = TensorData::empty();
        self.read_into(name, &mut tensor)?;
        Ok(tensor)
    }

    pub(crate) fn read_into(
        &self,
        name: &str,
        into: &mut TensorData,
    ) -> Result<(), ModelFileError> {
        let entry = self.entry(name)?;
        into.shape.clone_from(&entry.shape);
        self.fill(entry, 0..entry.bytes, into)
    }

    /// Reads some rows, the last dimension's, as a matrix.
    pub(crate) fn read_rows_into(
        &self,
        name: &str,
        rows: Range<usize>,
        into: &mut TensorData,
    ) -> Result<(), ModelFileError> {
        let entry = self.entry(name)?;
        // Entries were checked: none is empty, and a row is whole blocks.
        let columns = *entry.shape.last().unwrap_or(&1);
        let count = entry.shape.iter().product::<usize>() / columns;
        if rows.start >= rows.end || rows.end > count {
            return Err(ModelFileError::tensor(
                name,
                format!("has no rows {rows:?}, only {count}"),
            ));
        }
        let row_bytes = entry.bytes / count as u64;
        into.shape.clear();
        into.shape.extend([rows.len(), columns]);
        self.fill(entry, rows.start as u64 * row_bytes..rows.end as u64 * row_bytes, into)
    }

    pub(crate) fn entry(&self, name: &str) -> Result<&Entry, ModelFileError> {
        self.entries.get(name).ok_or_else(|| ModelFileError::tensor(name, "is not in the file"))
    }

    fn fill(
        &self,
        entry: &Entry,
        range: Range<u64>,
        into: &mut TensorData,
    ) -> Result<(), ModelFileError> {
        let part = &self.parts[entry.file_index];
        into.dtype = entry.dtype;
        into.bytes.resize((range.end - range.start) as usize, 0);
        part.file
            .read_exact_at(&mut into.bytes, entry.offset + range.start)
            .map_err(|error| ModelFileError::io(&part.path, error))
    }
}
