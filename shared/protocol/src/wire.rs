//! MessagePack with named fields: how control messages become bytes and back.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not a message, or a message cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than this message may be.
    #[error("message of {bytes} bytes, expected at most {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Not MessagePack, or not of this type.
    #[error("malformed message: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// Cannot be written.
    #[error("encode message: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Writes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    Ok(rmp_serde::to_vec_named(message)?)
}

/// Reads a message of at most `bytes_max` bytes. Safe on hostile input: lengths are bounded by
/// the input, nesting by the decoder's depth limit.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, WireError> {
    if bytes_max < bytes.len() {
        return Err(WireError::TooLong { bytes: bytes.len(), bytes_max });
    }
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(32);
    let message = T::deserialize(&mut decoder)?;
    match decoder.get_ref().len() {
        0 => Ok(message),
        left => Err(WireError::Trailing(left)),
    }
}
