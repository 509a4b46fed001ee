//! Chat templates: a conversation becomes the text of a prompt.
//!
//! A template is a program from a model's files, so its steps and its output are bounded. Its dialect
//! is that of Hugging Face `transformers`: Jinja with trimmed blocks, loop controls, Python's string
//! methods, `raise_exception`, `strftime_now`, `tojson` as Python writes it, and the `generation`
//! tag, which marks the assistant's part for training and has no effect here.

use std::fmt::Write as _;
use std::io;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config};
use jiff::tz::Offset;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

/// Most steps of one rendering; a conversation of 4,096 messages takes about a tenth of them.
const FUEL: u64 = 4_000_000;
/// Longest rendered conversation, in bytes.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting that `tojson` accepts.
const JSON_DEPTH_MAX: usize = 32;
const NAME: &str = "chat_template";

/// A conversation to be rendered.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) add_generation_prompt: bool,
    /// Further variables of the template.
    pub(crate) template_kwargs: Map<String, Json>,
}

/// One message, its text parts joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The role for the template: `developer` is `system` here.
    pub(crate) role: &'static str,
    pub(crate) content: String,
    pub(crate) name: Option<String>,
    pub(crate) tool_call_id: Option<String>,
}

/// A failure to render a conversation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    /// The template does not compile.
    #[error("the model's chat template does not compile: {0}")]
    Compile(String),
    /// The template called `raise_exception`.
    #[error("the model's chat template refused the messages: {0}")]
    Refused(String),
    /// The rendering exceeded its bounds.
    #[error("the rendered messages exceed {OUTPUT_BYTES_MAX} bytes or {FUEL} steps")]
    TooLong,
    /// The template failed at runtime.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
}

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles `source`; the texts of the tokens are variables of the template.
    pub(crate) fn new(
        source: &str,
        bos_token: String,
        eos_token: String,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Compile(error.to_string()))?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_function("strftime_now", |format: String| strftime(SystemTime::now(), &format));
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| TemplateError::Compile(error.to_string()))?;
        Ok(Self { environment, bos_token, eos_token })
    }

    /// Renders a conversation.
    pub(crate) fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let messages: Vec<Value> = conversation.messages.iter().map(message).collect();
        let own = [
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(conversation.add_generation_prompt)),
            ("bos_token", Value::from(self.bos_token.as_str())),
            ("eos_token", Value::from(self.eos_token.as_str())),
        ];
        // Later entries win: a client cannot replace the template's own variables.
        let kwargs = conversation
            .template_kwargs
            .iter()
            .map(|(key, value)| (key.as_str(), from_json(value)));
        let context = Value::from_pairs(kwargs.chain(own));
        let mut output = BoundedOutput::default();
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| TemplateError::Compile(error.to_string()))?;
        match template.render_captured_to(context, &mut output) {
            Ok(_) => String::from_utf8(output.bytes)
                .map_err(|error| TemplateError::Failed(error.to_string())),
            Err(_) if output.full => Err(TemplateError::TooLong),
            Err(error) => Err(classify(&error)),
        }
    }
}

fn classify(error: &Error) -> TemplateError {
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::TooLong,
        // Only `raise_exception` makes this kind with this mark.
        ErrorKind::InvalidOperation => {
            match error.detail().and_then(|it| it.strip_prefix(RAISED)) {
                Some(message) => TemplateError::Refused(message.to_owned()),
                None => TemplateError::Failed(error.to_string()),
            }
        }
        _ => TemplateError::Failed(error.to_string()),
    }
}

const RAISED: &str = "raise_exception: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// Formats a moment in UTC as C's `strftime` does. A directive that is unknown, or that asks for a
/// time zone, stays as it is: one odd date must not cost a chat.
fn strftime(now: SystemTime, format: &str) -> String {
    let now = Timestamp::try_from(now).unwrap_or_default();
    BrokenDownTime::from(Offset::UTC.to_datetime(now))
        .to_string_with_config(&Config::new().lenient(true), format)
        .unwrap_or_else(|_| format.to_owned())
}

fn message(message: &Message) -> Value {
    let fields = [
        Some(("role", Value::from(message.role))),
        Some(("content", Value::from(message.content.as_str()))),
        message.name.as_deref().map(|name| ("name", Value::from(name))),
        message.tool_call_id.as_deref().map(|id| ("tool_call_id", Value::from(id))),
    ];
    Value::from_pairs(fields.into_iter().flatten())
}

fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(values) => Value::from(values.iter().map(from_json).collect::<Vec<Value>>()),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// Replaces `generation` blocks by blocks that are always taken.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        text += before;
        let body = tag.trim_start_matches(['-', '+']).trim_start();
        let prefix = &tag[..tag.len() - body.len()];
        let replaced = [("generation", "if true"), ("endgeneration", "endif")]
            .into_iter()
            .find_map(|(word, instead)| {
                let after = body.strip_prefix(word)?;
                let closes = after.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
                closes.then_some((instead, after))
            });
        rest = match replaced {
            Some((instead, after)) => {
                text += prefix;
                text += instead;
                after
            }
            None => tag,
        };
    }
    text + rest
}

/// Implements `tojson` as `transformers` does: `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get::<Option<usize>>("indent")?.map(|width| width.min(16));
    let mut text = String::new();
    write_json(&mut text, value, indent, 0)?;
    Ok(text)
}

fn write_json(
    text: &mut String,
    value: &Value,
    indent: Option<usize>,
    depth: usize,
) -> Result<(), Error> {
    if depth > JSON_DEPTH_MAX || text.len() > OUTPUT_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: value too deep or too long"));
    }
    let line = |text: &mut String, depth: usize| {
        if let Some(width) = indent {
            let _ = write!(text, "\n{:1$}", "", width * depth);
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => *text += "null",
        ValueKind::Bool => *text += if value.is_true() { "true" } else { "false" },
        ValueKind::Number => *text += &value.to_string(),
        ValueKind::Map => {
            text.push('{');
            let mut first = true;
            for key in value.try_iter()? {
                *text += if std::mem::take(&mut first) { "" } else { separator };
                line(text, depth + 1);
                *text += &quoted(&key.to_string());
                *text += ": ";
                write_json(text, &value.get_item(&key)?, indent, depth + 1)?;
            }
            if !first {
                line(text, depth);
            }
            text.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            let mut first = true;
            for item in value.try_iter()? {
                *text += if std::mem::take(&mut first) { "" } else { separator };
                line(text, depth + 1);
                write_json(text, &item, indent, depth + 1)?;
            }
            if !first {
                line(text, depth);
            }
            text.push(']');
        }
        _ => *text += &quoted(&value.to_string()),
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

/// A buffer that does not grow beyond [`OUTPUT_BYTES_MAX`].
#[derive(Default)]
struct BoundedOutput {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn known_days_read_as_they_should() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(strftime(at(0), "%A %d %B %Y %H:%M:%S"), "Thursday 01 January 1970 00:00:00");
        assert_eq!(strftime(at(951_782_400), "%d %b %Y"), "29 Feb 2000");
        assert_eq!(
            strftime(at(1_796_083_199), "%a %Y-%m-%d %H:%M:%S %%"),
            "Mon 2026-11-30 23:59:59 %"
        );
        assert_eq!(strftime(at(4_107_542_400), "%e %b %y %Q"), " 1 Mar 00 %Q");
    }

    fn user(content: &str) -> Message {
        Message { role: "user", content: content.to_owned(), name: None, tool_call_id: None }
    }

    fn conversation(messages: &[Message]) -> Conversation {
        let messages = messages.to_vec();
        Conversation { messages, add_generation_prompt: true, template_kwargs: Map::new() }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        let template = ChatTemplate::new(source, "<s>".to_owned(), "</s>".to_owned())?;
        template.render(&conversation(messages))
    }

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != \
        'system' %}{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + \
        message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if \
        add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn a_chatml_template_renders_as_in_transformers() {
        let text = render(CHATML, &[user("Hi")]).unwrap();
        let expected = "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                        <|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn blocks_are_trimmed_and_python_methods_work() {
        let source = "{{ bos_token }}\n  {% for m in messages %}\n    {% if loop.index0 == 1 %}\n\
                      {% break %}\n    {% endif %}\n{{ m.content.strip() | upper }}\n  {% endfor %}\n";
        assert_eq!(render(source, &[user(" a "), user("b")]).unwrap(), "<s>\nA\n");
    }

    #[test]
    fn generation_tags_mean_nothing() {
        let source = "a {%- generation %}{{ messages[0].content }}{%- endgeneration -%} b";
        assert_eq!(render(source, &[user("x")]).unwrap(), "axb");
        assert_eq!(without_generation_tags("{% generations %}"), "{% generations %}");
    }

    #[test]
    fn raise_exception_reaches_the_client() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[user("x")]);
        assert!(
            matches!(error, Err(TemplateError::Refused(text)) if text == "roles must alternate")
        );
    }

    #[test]
    fn a_template_without_end_is_stopped() {
        let nested =
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        assert!(matches!(render(nested, &[user("x")]), Err(TemplateError::TooLong)));
        let long = "{% for a in range(100000) %}{{ messages[0].content }}{% endfor %}";
        let error = render(long, &[user(&"y".repeat(1000))]);
        assert!(matches!(error, Err(TemplateError::TooLong)), "{error:?}");
    }

    #[test]
    fn tojson_writes_as_python_does() {
        let source = "{{ {'a': [1, 'é', none], 'b': true} | tojson }}|{{ [1] | tojson(indent=2) }}";
        let text = render(source, &[user("x")]).unwrap();
        assert_eq!(text, "{\"a\": [1, \"é\", null], \"b\": true}|[\n  1\n]");
    }

    #[test]
    fn keyword_arguments_reach_the_template_but_replace_nothing_of_ours() {
        let template =
            ChatTemplate::new("{{ thinking }} {{ bos_token }}", "<s>".into(), "</s>".into())
                .unwrap();
        let kwargs = serde_json::json!({ "thinking": 7, "bos_token": "evil" });
        let template_kwargs = kwargs.as_object().unwrap().clone();
        let conversation = Conversation { template_kwargs, ..conversation(&[user("x")]) };
        let text = template.render(&conversation).unwrap();
        assert_eq!(text, "7 <s>");
    }
}
