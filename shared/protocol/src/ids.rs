//! Identities: requests, attempts, workers, gateways.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A token of the model's vocabulary. An alias rather than a newtype: token runs are bulk data
/// that go into hashes and tensors unchanged.
pub type TokenId = u32;

/// Longest name of a worker or gateway, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A text that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name is empty, too long or holds a character that a subject cannot carry.
    #[error("name {0:?} is not 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_'")]
    Name(String),
    /// The request id is not 32 hexadecimal digits.
    #[error("request id {0:?} is not 32 hexadecimal digits")]
    Request(String),
}

/// One generation: one choice of one client request. Drawn at random by the gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(#[serde(with = "u128_bytes")] pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RequestId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Request(text.chars().take(NAME_BYTES_MAX).collect());
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

/// The number of an attempt. A newer attempt makes all older ones stale.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Attempt(pub u32);

/// The identity on which handlers are idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey {
    /// The generation.
    pub request: RequestId,
    /// The attempt.
    pub attempt: Attempt,
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
                if fits && text.bytes().all(is_name_byte) {
                    Ok(Self(text))
                } else {
                    Err(IdError::Name(text.chars().take(NAME_BYTES_MAX).collect()))
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A worker process; part of its subjects.
    WorkerId
}
name! {
    /// A gateway process; part of its token subject.
    GatewayId
}

/// `u128` as 16 big-endian bytes: MessagePack has no 128-bit integer.
mod u128_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_be_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u128, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(u128::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_break_a_subject_is_refused() {
        for bad in ["", "a.b", "a b", "*", ">", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad:?}");
        }
        assert_eq!("prefill-1_a".parse::<WorkerId>().unwrap().as_str(), "prefill-1_a");
    }

    #[test]
    fn a_request_id_survives_its_text() {
        let id = RequestId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string().parse::<RequestId>().unwrap(), id);
        assert!("+1".repeat(16).parse::<RequestId>().is_err());
    }
}
