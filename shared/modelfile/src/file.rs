//! A model file, opened and checked; tensors are read one at a time.

use crate::dtype::DType;
use crate::error::ModelFileError;
use crate::sampling::SamplingDefaults;
use crate::shards::{INDEX, Shards};
use crate::spec::{ModelSpec, STOP_TEXTS, SpecialTokens};
use crate::table::TensorTable;
use crate::tensor::TensorData;
use crate::tokenizer::Tokenizer;
use crate::value::Metadata;
use crate::{companion, families, gguf, safetensors, tokenizer_gguf};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An opened model: header validated, tensors still on disk.
#[derive(Debug)]
pub struct ModelFile {
    name: String,
    spec: ModelSpec,
    special: SpecialTokens,
    chat_template: Option<String>,
    vocabulary: Vocabulary,
    /// `generation_config.json`; `Null` where there is none, as beside a GGUF file.
    generation_config: Value,
    table: TensorTable,
    /// Everything that `digest` covers, in its order.
    files: Vec<PathBuf>,
}

#[derive(Debug)]
enum Vocabulary {
    Gguf(Metadata),
    Json(Vec<u8>),
}

impl ModelFile {
    /// Opens a GGUF file (or any part of a split one with all its siblings), or a directory as
    /// Hugging Face lays it out, or one `.safetensors` in such a directory with its shards.
    pub fn open(path: &Path) -> Result<Self, ModelFileError> {
        if path.is_dir() {
            return Self::open_safetensors(path, &Shards::find(path, None)?);
        }
        if starts_with_gguf_magic(path)? {
            return Self::open_gguf(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with(".safetensors") && name != INDEX {
            let problem = "is neither a GGUF file nor safetensors; expected a file that begins with \
                           GGUF, or a directory with safetensors, config.json and tokenizer.json";
            return Err(ModelFileError::part(path, problem));
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        Self::open_safetensors(directory, &Shards::find(directory, Some(path))?)
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelFileError> {
        let (metadata, table) = gguf::open(path)?;
        let spec = families::from_gguf(&metadata, &table)?;
        let name = match metadata.text("general.name")? {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => stem(path),
        };
        Ok(Self {
            name,
            special: tokenizer_gguf::special_tokens(&metadata)?,
            chat_template: metadata.text("tokenizer.chat_template")?.map(str::to_owned),
            spec,
            vocabulary: Vocabulary::Gguf(metadata),
            generation_config: Value::Null,
            files: table.parts.iter().map(|part| part.path.clone()).collect(),
            table,
        })
    }

    fn open_safetensors(directory: &Path, shards: &Shards) -> Result<Self, ModelFileError> {
        let config = companion::need_json(&directory.join("config.json"))?;
        let tokenizer_config = directory.join("tokenizer_config.json");
        let tokenizer_settings = companion::read_json(&tokenizer_config)?.unwrap_or(Value::Null);
        let generation = directory.join("generation_config.json");
        let generation_settings = companion::read_json(&generation)?.unwrap_or(Value::Null);
        let tokenizer_path = directory.join("tokenizer.json");
        let tokenizer_json = companion::need(&tokenizer_path)?;
        let template_path = directory.join("chat_template.jinja");
        let template = companion::read_text(&template_path)?
            .or_else(|| tokenizer_settings["chat_template"].as_str().map(str::to_owned));

        let table = safetensors::open(shards)?;
        let spec = families::from_config(&config, &table)?;
        let tokenizer = Tokenizer::from_json(&tokenizer_json)?;
        let special =
            special_from_json(&tokenizer, &[&generation_settings, &config], &tokenizer_settings);
        let mut files = vec![directory.join("config.json"), tokenizer_path];
        let optional = [tokenizer_config, generation, template_path];
        files.extend(optional.into_iter().filter(|path| path.exists()));
        files.extend(shards.index.clone());
        files.extend(shards.files.iter().cloned());
        Ok(Self {
            name: directory_name(directory),
            spec,
            special,
            chat_template: template,
            vocabulary: Vocabulary::Json(tokenizer_json),
            generation_config: generation_settings,
            table,
            files,
        })
    }

    /// Returns the sizes and constants of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Returns the name that the file gives the model, or else the name of the file or directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the template that renders a conversation into a prompt, if the model has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Returns the tokens that begin and end texts.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Reads the sampling parameters that the model's publisher recommends.
    pub fn sampling_defaults(&self) -> Result<SamplingDefaults, ModelFileError> {
        match &self.vocabulary {
            Vocabulary::Gguf(metadata) => SamplingDefaults::from_gguf(metadata),
            Vocabulary::Json(_) => SamplingDefaults::from_json(&self.generation_config),
        }
    }

    /// Returns the place of the [`sampling_defaults`](Self::sampling_defaults).
    pub fn sampling_source(&self) -> &'static str {
        match &self.vocabulary {
            Vocabulary::Gguf(_) => "GGUF metadata",
            Vocabulary::Json(_) => "generation_config.json",
        }
    }

    /// Reads a tensor; names are those of GGUF files (`blk.0.attn_q.weight`) for every format.
    pub fn tensor(&self, name: &str) -> Result<TensorData, ModelFileError> {
        self.table.read(name)
    }

    /// Reads a tensor into a buffer that may have held another: see [`Self::tensor`].
    pub fn tensor_into(&self, name: &str, into: &mut TensorData) -> Result<(), ModelFileError> {
        self.table.read_into(name, into)
    }

    /// Reads some rows of a tensor, a matrix of them, into a buffer that may have held others.
    pub fn rows_into(
        &self,
        name: &str,
        rows: Range<usize>,
        into: &mut TensorData,
    ) -> Result<(), ModelFileError> {
        self.table.read_rows_into(name, rows, into)
    }

    /// Returns the storage of a tensor and its shape, without reading it.
    pub fn layout(&self, name: &str) -> Result<(DType, &[usize]), ModelFileError> {
        let entry = self.table.entry(name)?;
        Ok((entry.dtype, &entry.shape))
    }

    /// Returns the number of values in all tensors.
    pub fn parameters(&self) -> u64 {
        self.table.values()
    }

    /// Builds the tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelFileError> {
        match &self.vocabulary {
            Vocabulary::Gguf(metadata) => tokenizer_gguf::build(metadata),
            Vocabulary::Json(bytes) => Tokenizer::from_json(bytes),
        }
    }

    /// Computes the BLAKE3 digest of everything the model consists of, read from disk in a stream.
    pub fn digest(&self) -> Result<[u8; 32], ModelFileError> {
        let mut hasher = blake3::Hasher::new();
        for path in &self.files {
            let mut file = File::open(path).map_err(|error| ModelFileError::io(path, error))?;
            let bytes = file.metadata().map_err(|error| ModelFileError::io(path, error))?.len();
            hasher.update(&bytes.to_le_bytes());
            hasher.update_reader(&mut file).map_err(|error| ModelFileError::io(path, error))?;
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

fn stem(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}

/// Returns the name of a directory; in a hub's cache, where directories are called by their commit, that of
/// the repository: `models--owner--name/snapshots/commit`.
fn directory_name(directory: &Path) -> String {
    let repository = || {
        let snapshots = directory.parent().filter(|parent| parent.ends_with("snapshots"))?;
        let repository = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
        Some(repository.rsplit_once("--").map_or(repository, |(_, name)| name).to_owned())
    };
    repository().unwrap_or_else(|| stem(directory))
}

fn starts_with_gguf_magic(path: &Path) -> Result<bool, ModelFileError> {
    let file = File::open(path).map_err(|error| ModelFileError::io(path, error))?;
    let mut start = Vec::with_capacity(4);
    file.take(4).read_to_end(&mut start).map_err(|error| ModelFileError::io(path, error))?;
    Ok(start == gguf::MAGIC)
}

/// Reads special tokens from the JSON companions; ids outside the vocabulary are dropped.
fn special_from_json(
    tokenizer: &Tokenizer,
    settings: &[&Value],
    tokenizer_settings: &Value,
) -> SpecialTokens {
    let vocab = tokenizer.vocab_size() as u64;
    let ids = |key: &str| -> Vec<u32> {
        let found = settings.iter().flat_map(|json| match &json[key] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            value => value.as_u64().into_iter().collect::<Vec<u64>>(),
        });
        found.filter(|&id| id < vocab).map(|id| id as u32).collect()
    };
    // A token is written either as its text or as an object that holds its text.
    let by_text = |key: &str| -> Option<u32> {
        let value = &tokenizer_settings[key];
        tokenizer.token_id(value.as_str().or(value["content"].as_str())?)
    };
    let eos = by_text("eos_token").or(ids("eos_token_id").first().copied());
    let mut stop: BTreeSet<u32> = ids("eos_token_id").into_iter().chain(eos).collect();
    stop.extend(
        STOP_TEXTS
            .iter()
            .filter_map(|text| tokenizer.token_id(text))
            .filter(|&id| tokenizer.is_special(id)),
    );
    SpecialTokens {
        bos: by_text("bos_token").or(ids("bos_token_id").first().copied()),
        eos,
        stop: stop.into_iter().collect(),
        add_bos: tokenizer_settings["add_bos_token"].as_bool().unwrap_or(tokenizer.adds_bos()),
    }
}
