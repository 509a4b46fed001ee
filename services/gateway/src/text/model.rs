//! The text side of a model: its name, vocabulary, chat template and stop tokens.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use chassis::clock::since_epoch;
use chassis::settings::{GenerationConfig, ModelSettings};
use modelfile::ModelFile;
use protocol::{FileDigest, Sampling, TokenId, simulated};
use tracing::{info, warn};

use crate::error::ApiError;
use crate::text::template::{ChatTemplate, Conversation, TemplateError};
use crate::text::vocabulary::{CommonWords, Vocabulary};

/// The chat template of the simulated engine.
const SIMULATED_TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: \
    {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

/// The parts of a [`TextModel`].
pub struct TextModelParts {
    /// The vocabulary.
    pub vocabulary: Arc<dyn Vocabulary>,
    /// The name under which the model is served.
    pub model: String,
    /// Further names under which clients may ask for it.
    pub aliases: Vec<String>,
    /// Digest of the model's files.
    pub files: FileDigest,
    /// Longest sequence that the model was made for, in tokens.
    pub context_tokens: u32,
    /// Source of the chat template.
    pub chat_template: Option<String>,
    /// Token that begins a text.
    pub bos: Option<TokenId>,
    /// Token that ends a text.
    pub eos: Option<TokenId>,
    /// True if a text begins with `bos`.
    pub add_bos: bool,
    /// Tokens that end the output.
    pub stop_tokens: Vec<TokenId>,
    /// Sampling parameters of requests that do not set them.
    pub sampling: Sampling,
}

/// The text side of the served model.
pub struct TextModel {
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) model: String,
    pub(crate) files: FileDigest,
    pub(crate) context_tokens: u32,
    pub(crate) stop_tokens: Vec<TokenId>,
    pub(crate) sampling: Sampling,
    /// Time of loading, in seconds since the Unix epoch.
    pub(crate) created_s: u64,
    /// `system_fingerprint` of every response.
    pub(crate) fingerprint: String,
    aliases: Vec<String>,
    /// The chat template, or the reason why there is none.
    template: Result<ChatTemplate, String>,
    bos: Option<TokenId>,
    add_bos: bool,
}

/// Returns the sampling parameters of requests that do not set them, and logs their source.
fn sampling(file: &ModelFile, generation_config: GenerationConfig) -> anyhow::Result<Sampling> {
    let neutral = Sampling::default();
    match generation_config {
        GenerationConfig::None => {
            info!("ignored the model's sampling parameters, as model.generation_config says");
            Ok(neutral)
        }
        GenerationConfig::File => {
            let defaults = file.sampling_defaults().context(
                "read the model's sampling parameters \
                 (model.generation_config = \"none\" ignores them)",
            )?;
            info!(
                source = file.sampling_source(),
                temperature = defaults.temperature,
                top_p = defaults.top_p,
                top_k = defaults.top_k,
                min_p = defaults.min_p,
                repetition_penalty = defaults.repetition_penalty,
                "loaded the model's sampling parameters"
            );
            Ok(Sampling {
                temperature: defaults.temperature.unwrap_or(neutral.temperature),
                top_p: defaults.top_p.unwrap_or(neutral.top_p),
                top_k: defaults.top_k.unwrap_or(neutral.top_k),
                min_p: defaults.min_p.unwrap_or(neutral.min_p),
                repetition_penalty: defaults
                    .repetition_penalty
                    .unwrap_or(neutral.repetition_penalty),
                ..neutral
            })
        }
    }
}

/// A prompt as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<TokenId>),
}

/// A prompt as tokens.
#[derive(Clone, Debug)]
pub(crate) struct TokenizedPrompt {
    pub(crate) tokens: Arc<[TokenId]>,
    /// The prompt as text, for `echo`.
    pub(crate) text: String,
    /// The first token was added by the gateway and is not part of the text.
    pub(crate) bos_added: bool,
}

impl TextModel {
    /// Reads the text side of the model file at `path`, under the name of the settings or else its own.
    pub fn open(path: &Path, settings: &ModelSettings) -> anyhow::Result<Self> {
        let file = ModelFile::open(path)?;
        let special = file.special();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Ok(Self::new(TextModelParts {
            vocabulary: Arc::new(file.tokenizer()?),
            model: settings.name.as_deref().unwrap_or(file.name()).to_owned(),
            aliases: stem.into_iter().chain([file.name().to_owned()]).collect(),
            files: FileDigest(file.digest()?),
            context_tokens: u32::try_from(file.spec().context_tokens).unwrap_or(u32::MAX),
            chat_template: file.chat_template().map(str::to_owned),
            bos: special.bos,
            eos: special.eos,
            add_bos: special.add_bos,
            stop_tokens: special.stop.clone(),
            sampling: sampling(&file, settings.generation_config)?,
        }))
    }

    /// Returns the text side of the simulated engine, which has no file.
    pub fn simulated(name: Option<&str>) -> Self {
        Self::new(TextModelParts {
            vocabulary: Arc::new(CommonWords),
            model: name.unwrap_or(simulated::NAME).to_owned(),
            aliases: vec![simulated::NAME.to_owned()],
            files: simulated::files(),
            context_tokens: simulated::CONTEXT_TOKENS,
            chat_template: Some(SIMULATED_TEMPLATE.to_owned()),
            bos: None,
            eos: Some(simulated::END),
            add_bos: false,
            stop_tokens: vec![simulated::END],
            sampling: Sampling::default(),
        })
    }

    /// Returns the model made of `parts`. A wrong chat template disables chats, not completions.
    pub fn new(parts: TextModelParts) -> Self {
        let text_of = |token: Option<TokenId>| {
            token.map_or_else(String::new, |token| parts.vocabulary.decode(&[token]))
        };
        let template = match parts.chat_template {
            None => Err(format!("model {:?} has no chat template", parts.model)),
            Some(source) => ChatTemplate::new(&source, text_of(parts.bos), text_of(parts.eos))
                .map_err(|error| error.to_string()),
        };
        if let Err(reason) = &template {
            warn!(reason, "cannot use the chat template, chats are refused");
        }
        let [a, b, c, d, ..] = parts.files.0;
        Self {
            vocabulary: parts.vocabulary,
            model: parts.model,
            aliases: parts.aliases,
            files: parts.files,
            context_tokens: parts.context_tokens,
            template,
            bos: parts.bos,
            add_bos: parts.add_bos,
            stop_tokens: parts.stop_tokens,
            sampling: parts.sampling,
            created_s: since_epoch(SystemTime::now()).as_secs(),
            fingerprint: format!("fp_{:08x}", u32::from_be_bytes([a, b, c, d])),
        }
    }

    /// Returns the name under which the model is served.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Returns the digest of the model's files.
    pub fn files(&self) -> FileDigest {
        self.files
    }

    /// Returns true if `name` is a name of this model.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.model == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// Renders and tokenizes a conversation. Texts of special tokens become those tokens everywhere,
    /// inside a user's message, too.
    pub(crate) fn chat_prompt(
        &self,
        conversation: &Conversation,
        add_special_tokens: Option<bool>,
    ) -> Result<TokenizedPrompt, ApiError> {
        let template =
            self.template.as_ref().map_err(|reason| ApiError::invalid("messages", reason))?;
        let text = template
            .render(conversation)
            .map_err(|error: TemplateError| ApiError::invalid("messages", error.to_string()))?;
        self.tokenized(text, add_special_tokens.unwrap_or(false), "messages")
    }

    /// Tokenizes a prompt.
    pub(crate) fn completion_prompt(
        &self,
        prompt: Prompt,
        add_special_tokens: Option<bool>,
    ) -> Result<TokenizedPrompt, ApiError> {
        match prompt {
            Prompt::Text(text) => {
                self.tokenized(text, add_special_tokens.unwrap_or(self.add_bos), "prompt")
            }
            Prompt::Tokens(tokens) => {
                let text = self.vocabulary.decode(&tokens);
                self.nonempty(
                    TokenizedPrompt { tokens: tokens.into(), text, bos_added: false },
                    "prompt",
                )
            }
        }
    }

    fn tokenized(
        &self,
        text: String,
        add_bos: bool,
        param: &str,
    ) -> Result<TokenizedPrompt, ApiError> {
        let mut tokens = self.vocabulary.encode(&text).map_err(|error| {
            ApiError::invalid(param, format!("{param} cannot be tokenized: {error}"))
        })?;
        let bos = self.bos.filter(|bos| add_bos && tokens.first() != Some(bos));
        if let Some(bos) = bos {
            tokens.insert(0, bos);
        }
        self.nonempty(
            TokenizedPrompt { tokens: tokens.into(), text, bos_added: bos.is_some() },
            param,
        )
    }

    fn nonempty(
        &self,
        prepared: TokenizedPrompt,
        param: &str,
    ) -> Result<TokenizedPrompt, ApiError> {
        if prepared.tokens.is_empty() {
            return Err(ApiError::invalid(
                param,
                format!("{param} is empty, expected at least 1 token"),
            ));
        }
        Ok(prepared)
    }
}
