//! The description of each key: its meaning, its type, its unit and the values it takes.

use std::fmt::Display;
use std::path::PathBuf;

use config::ValueKind;
use protocol::NatsUrl;

/// One key of the schema, with the value that some settings have for it.
#[derive(Debug, Clone)]
pub struct Key {
    /// The dotted key, such as `gateway.listen`.
    pub key: String,
    /// Its meaning, from the field's documentation.
    pub meaning: String,
    /// The values it takes, for people.
    pub expected: String,
    pub(super) kind: Kind,
    pub(super) is_in_range: bool,
}

impl Key {
    pub(super) fn new(prefix: &str, name: &str, doc: &[&str], kind: Kind, limit: Limit) -> Self {
        let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
        Self {
            key: join(prefix, name),
            meaning: lines.join(" "),
            expected: limit.expected,
            kind,
            is_in_range: limit.holds,
        }
    }

    /// Returns the unit of the value, which the key's name carries; empty for plain values.
    pub fn unit(&self) -> &'static str {
        let name = self.key.rsplit('.').next().unwrap_or(&self.key);
        if name.contains("_us_") || name.starts_with("us_") {
            "microseconds"
        } else if name.ends_with("_ms") {
            "milliseconds"
        } else if name.ends_with("_s") {
            "seconds"
        } else if name.ends_with("_bytes") {
            "bytes"
        } else if name.ends_with("_pages") {
            "pages"
        } else if name.ends_with("_tokens") {
            "tokens"
        } else {
            ""
        }
    }

    /// Returns what a value of another type should have been.
    pub(super) fn expected_type(&self) -> String {
        match self.kind {
            Kind::Choice(_) => self.expected.clone(),
            kind => kind.name().to_owned(),
        }
    }

    /// Returns the values that the key takes, with their unit.
    pub(super) fn expected_with_unit(&self) -> String {
        format!("{} {}", self.expected, self.unit()).trim_end().to_owned()
    }
}

/// Appends a name to a dotted prefix.
pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// The type of a key's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Number,
    Text,
    /// One of a few words; the function says whether a word is one of them.
    Choice(fn(&str) -> bool),
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Boolean => "true or false",
            Self::Integer => "a whole number, 0 or more",
            Self::Number => "a number",
            Self::Text | Self::Choice(_) => "text",
        }
    }

    /// Returns whether a source may give this value. Environment and flags give text for every
    /// type; a file gives the type itself.
    pub(super) fn accepts(self, kind: &ValueKind) -> bool {
        match (self, kind) {
            (Self::Text, ValueKind::String(_)) | (Self::Boolean, ValueKind::Boolean(_)) => true,
            (Self::Choice(is_choice), ValueKind::String(text)) => is_choice(text),
            (Self::Boolean, ValueKind::String(text)) => text.parse::<bool>().is_ok(),
            (Self::Integer, ValueKind::String(text)) => text.parse::<u64>().is_ok(),
            (Self::Integer, ValueKind::I64(value)) => *value >= 0,
            (Self::Integer, ValueKind::U64(_)) => true,
            (Self::Number, ValueKind::String(text)) => text.parse().is_ok_and(f64::is_finite),
            (Self::Number, ValueKind::Float(value)) => value.is_finite(),
            (Self::Number, ValueKind::I64(_) | ValueKind::U64(_)) => true,
            _ => false,
        }
    }
}

/// A Rust type that a key can have.
pub(super) trait HasKind {
    const KIND: Kind;
}

macro_rules! has_kind {
    ($($type:ty => $kind:ident),* $(,)?) => {$(
        impl HasKind for $type {
            const KIND: Kind = Kind::$kind;
        }
    )*};
}

has_kind! {
    bool => Boolean, u64 => Integer, usize => Integer, f64 => Number, String => Text,
    PathBuf => Text, NatsUrl => Text,
}

impl<T: HasKind> HasKind for Option<T> {
    const KIND: Kind = T::KIND;
}

/// The values a key takes, and whether one value is among them.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) expected: String,
    pub(super) holds: bool,
}

pub(super) fn anything<T>(expected: &str) -> impl Fn(&T) -> Limit {
    move |_| Limit { expected: expected.to_owned(), holds: true }
}

pub(super) fn between<T: PartialOrd + Display>(min: T, max: T) -> impl Fn(&T) -> Limit {
    move |value| Limit {
        expected: format!("{min} to {max}"),
        holds: *value >= min && *value <= max,
    }
}

pub(super) fn at_least<T: PartialOrd + Display>(min: T) -> impl Fn(&T) -> Limit {
    move |value| Limit { expected: format!("{min} or more"), holds: *value >= min }
}

pub(super) fn above_zero_to(max: f64) -> impl Fn(&f64) -> Limit {
    move |value| Limit {
        expected: format!("above 0, at most {max}"),
        holds: *value > 0.0 && *value <= max,
    }
}

pub(super) fn optional<T>(limit: impl Fn(&T) -> Limit, example: T) -> impl Fn(&Option<T>) -> Limit {
    move |value| limit(value.as_ref().unwrap_or(&example))
}

pub(super) fn text(expected: &str, is_valid: fn(&str) -> bool) -> impl Fn(&String) -> Limit {
    move |value| Limit { expected: expected.to_owned(), holds: is_valid(value) }
}

pub(super) fn nats_urls(expected: &str) -> impl Fn(&NatsUrl) -> Limit {
    move |url| {
        let holds = url.servers().all(|url| match url.split_once("://") {
            Some((scheme, rest)) => {
                matches!(scheme, "nats" | "tls" | "ws" | "wss") && !rest.is_empty()
            }
            None => !url.is_empty(),
        });
        Limit { expected: expected.to_owned(), holds }
    }
}

/// A part of the settings that can list its keys.
pub(super) trait Section {
    /// Appends the keys below `prefix`, in the order of the schema.
    fn list(&self, prefix: &str, keys: &mut Vec<Key>);
}

/// Declares a section of the settings: each key once, with its meaning, type, default and limit,
/// and the sections inside it.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        $name:ident {
            $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $limit:expr;)*
            $(sections {
                $($(#[doc = $inner_doc:literal])+ $inner:ident: $inner_type:ty;)*
            })?
        }
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)*
            $($($(#[doc = $inner_doc])+ pub $inner: $inner_type,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($($inner: Default::default(),)*)? }
            }
        }

        impl Section for $name {
            fn list(&self, prefix: &str, keys: &mut Vec<Key>) {
                $(keys.push(Key::new(
                    prefix,
                    stringify!($field),
                    &[$($doc),+],
                    <$type as HasKind>::KIND,
                    ($limit)(&self.$field),
                ));)*
                $($(self.$inner.list(&join(prefix, stringify!($inner)), keys);)*)?
            }
        }
    };
}

pub(super) use section;
