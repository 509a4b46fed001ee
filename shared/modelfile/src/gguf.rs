//! The header of a GGUF file (versions 2 and 3, little-endian).

use crate::dtype::DType;
use crate::error::ModelFileError;
use crate::reader::Reader;
use crate::split::Split;
use crate::table::{DIMENSIONS_MAX, Entry, Part, TensorTable};
use crate::value::{Metadata, Value};
use std::io::{BufReader, Read};
use std::path::Path;

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";
pub(crate) const ALIGNMENT: u64 = 32;
const ALIGNMENT_MAX: usize = 1 << 16;
const TENSORS_MAX: u64 = 1 << 16;
const KEYS_MAX: u64 = 1 << 16;
/// Shortest key-value pair: empty key, type, one byte.
const KEY_BYTES_MIN: u64 = 8 + 4 + 1;
/// Shortest tensor description: empty name, one dimension, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

struct Described {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    offset: u64,
}

/// Reads metadata and tensor table of the GGUF file at `path`, with all its siblings when it is a
/// part of a split one. Gives the metadata of the first part.
pub(crate) fn open(path: &Path) -> Result<(Metadata, TensorTable), ModelFileError> {
    let opened = Opened::read(path)?;
    let mut table = TensorTable::default();
    let Some(split) = Split::read(&opened.metadata)? else {
        let metadata = opened.add_to(&mut table)?;
        table.check_overlap()?;
        return Ok((metadata, table));
    };
    let mut opened = Some(opened);
    let mut first = None;
    for (index, path) in split.paths(path)?.iter().enumerate() {
        let part = match opened.take_if(|_| index == split.index) {
            Some(part) => part,
            None => Opened::read(path)?,
        };
        let wanted = Split { index, ..split };
        if Split::read(&part.metadata)? != Some(wanted) {
            let found = ["split.no", "split.count", "split.tensors.count"]
                .map(|key| format!("{key} {:?}", part.metadata.0.get(key)));
            let problem = format!("says {}, not {wanted:?}", found.join(", "));
            return Err(ModelFileError::part(path, problem));
        }
        let metadata = part.add_to(&mut table)?;
        first.get_or_insert(metadata);
    }
    let found = table.names().count();
    if split.tensors.is_some_and(|said| said != found) {
        let problem = format!("is {:?}, the parts hold {found}", split.tensors);
        return Err(ModelFileError::field("split.tensors.count", problem));
    }
    table.check_overlap()?;
    Ok((first.unwrap_or_default(), table))
}

/// One file's header.
struct Opened {
    part: Part,
    metadata: Metadata,
    described: Vec<Described>,
    header_bytes: u64,
}

impl Opened {
    fn read(path: &Path) -> Result<Self, ModelFileError> {
        let part = Part::open(path)?;
        let mut reader = Reader::new(BufReader::new(&part.file), part.bytes);
        let (metadata, described) = read_header(&mut reader)?;
        let header_bytes = reader.position();
        Ok(Self { part, metadata, described, header_bytes })
    }

    /// Puts the file's tensors into the table, and gives its metadata.
    fn add_to(self, table: &mut TensorTable) -> Result<Metadata, ModelFileError> {
        let Self { part, metadata, described, header_bytes } = self;
        let alignment = match metadata.count("general.alignment", ALIGNMENT_MAX)? {
            Some(n) if n.is_power_of_two() => n as u64,
            Some(n) => {
                let problem = format!("is {n}, not a power of two");
                return Err(ModelFileError::field("general.alignment", problem));
            }
            None => ALIGNMENT,
        };
        let data_start = header_bytes.next_multiple_of(alignment);
        let file_index = table.parts.len();
        table.parts.push(part);
        for Described { name, dtype, shape, offset } in described {
            if !offset.is_multiple_of(alignment) {
                let problem = format!("offset {offset} is not a multiple of {alignment}");
                return Err(ModelFileError::tensor(name, problem));
            }
            let bytes = dtype.tensor_bytes(&shape).ok_or_else(|| {
                ModelFileError::tensor(&name, format!("shape {shape:?} cannot be {dtype:?}"))
            })?;
            let offset = data_start.checked_add(offset).ok_or_else(|| {
                ModelFileError::tensor(&name, format!("offset {offset} overflows"))
            })?;
            table.insert(&name, Entry { file_index, dtype, shape, offset, bytes })?;
        }
        Ok(metadata)
    }
}

fn read_header<R: Read>(
    reader: &mut Reader<R>,
) -> Result<(Metadata, Vec<Described>), ModelFileError> {
    let magic: [u8; 4] = reader.array("magic")?;
    if magic != MAGIC {
        return Err(ModelFileError::field("magic", format!("is {magic:?}, not GGUF")));
    }
    let version = reader.u32("version")?;
    if !(2..=3).contains(&version) {
        return Err(ModelFileError::field("version", format!("is {version}, not 2 or 3")));
    }
    let tensor_count = bounded_count(reader, "tensor_count", TENSORS_MAX, TENSOR_BYTES_MIN)?;
    let key_count = bounded_count(reader, "metadata_kv_count", KEYS_MAX, KEY_BYTES_MIN)?;

    let mut metadata = Metadata::default();
    for index in 0..key_count {
        let key = reader.text(&format!("key {index}"))?;
        let kind = reader.u32(&key)?;
        let value = read_value(reader, &key, kind)?;
        if metadata.0.insert(key.clone(), value).is_some() {
            return Err(ModelFileError::field(key, "occurs twice"));
        }
    }
    let tensors =
        (0..tensor_count).map(|index| read_tensor(reader, index)).collect::<Result<_, _>>()?;
    Ok((metadata, tensors))
}

fn bounded_count<R: Read>(
    reader: &mut Reader<R>,
    field: &str,
    most: u64,
    item_bytes: u64,
) -> Result<usize, ModelFileError> {
    let count = reader.u64(field)?;
    if count > most {
        return Err(ModelFileError::field(field, format!("is {count}, more than {most}")));
    }
    reader.check_count(field, count, item_bytes)
}

fn read_tensor<R: Read>(reader: &mut Reader<R>, index: usize) -> Result<Described, ModelFileError> {
    let name = reader.text(&format!("name of tensor {index}"))?;
    let dimension_count = reader.u32(&name)? as usize;
    if !(1..=DIMENSIONS_MAX).contains(&dimension_count) {
        let problem = format!("has {dimension_count} dimensions, not 1 to {DIMENSIONS_MAX}");
        return Err(ModelFileError::tensor(name, problem));
    }
    let mut shape = Vec::with_capacity(dimension_count);
    for _ in 0..dimension_count {
        let size = reader.u64(&name)?;
        let size = usize::try_from(size)
            .map_err(|_| ModelFileError::tensor(&name, format!("dimension {size} is too large")))?;
        shape.push(size);
    }
    shape.reverse();
    let kind = reader.u32(&name)?;
    let dtype = DType::from_ggml(kind).ok_or_else(|| {
        let problem = format!("has {}, which is not supported", DType::ggml_name(kind));
        ModelFileError::tensor(&name, problem)
    })?;
    let offset = reader.u64(&name)?;
    Ok(Described { name, dtype, shape, offset })
}

fn read_value<R: Read>(
    reader: &mut Reader<R>,
    key: &str,
    kind: u32,
) -> Result<Value, ModelFileError> {
    Ok(match kind {
        6 => Value::Float(f64::from(f32::from_le_bytes(reader.array(key)?))),
        7 => Value::Bool(reader.array::<1>(key)?[0] != 0),
        8 => Value::Text(reader.text(key)?),
        9 => {
            let item_kind = reader.u32(key)?;
            let count = reader.u64(key)?;
            read_array(reader, key, item_kind, count)?
        }
        12 => Value::Float(f64::from_le_bytes(reader.array(key)?)),
        _ => Value::Int(read_int(reader, key, kind)?),
    })
}

fn read_int<R: Read>(reader: &mut Reader<R>, key: &str, kind: u32) -> Result<i128, ModelFileError> {
    Ok(match kind {
        0 => i128::from(u8::from_le_bytes(reader.array(key)?)),
        1 => i128::from(i8::from_le_bytes(reader.array(key)?)),
        2 => i128::from(u16::from_le_bytes(reader.array(key)?)),
        3 => i128::from(i16::from_le_bytes(reader.array(key)?)),
        4 => i128::from(u32::from_le_bytes(reader.array(key)?)),
        5 => i128::from(i32::from_le_bytes(reader.array(key)?)),
        7 => i128::from(u8::from_le_bytes(reader.array(key)?)),
        10 => i128::from(u64::from_le_bytes(reader.array(key)?)),
        11 => i128::from(i64::from_le_bytes(reader.array(key)?)),
        _ => return Err(ModelFileError::field(key, format!("has unknown value type {kind}"))),
    })
}

fn read_array<R: Read>(
    reader: &mut Reader<R>,
    key: &str,
    kind: u32,
    count: u64,
) -> Result<Value, ModelFileError> {
    let item_bytes = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err(ModelFileError::field(key, "is an array of arrays")),
        _ => return Err(ModelFileError::field(key, format!("has unknown item type {kind}"))),
    };
    let count = reader.check_count(key, count, item_bytes)?;
    Ok(match kind {
        8 => Value::Texts((0..count).map(|_| reader.text(key)).collect::<Result<_, _>>()?),
        6 => Value::Floats(
            (0..count)
                .map(|_| Ok(f32::from_le_bytes(reader.array(key)?)))
                .collect::<Result<_, ModelFileError>>()?,
        ),
        12 => Value::Floats(
            (0..count)
                .map(|_| Ok(f64::from_le_bytes(reader.array(key)?) as f32))
                .collect::<Result<_, ModelFileError>>()?,
        ),
        _ => Value::Ints(
            (0..count)
                .map(|_| {
                    let n = read_int(reader, key, kind)?;
                    i64::try_from(n)
                        .map_err(|_| ModelFileError::field(key, format!("item {n} is too large")))
                })
                .collect::<Result<_, _>>()?,
        ),
    })
}
