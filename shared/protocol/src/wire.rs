//! MessagePack with named fields: the encoding of control messages.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are no message, or a message that cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum WireError {
    /// The message is longer than its kind may be.
    #[error("message of {bytes} bytes, expected at most {bytes_max}")]
    TooLong { bytes: usize, bytes_max: usize },
    /// The bytes are no MessagePack, or not of this type.
    #[error("malformed message: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// The message cannot be encoded.
    #[error("encode message: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    Ok(rmp_serde::to_vec_named(message)?)
}

/// Decodes a message of at most `bytes_max` bytes. Safe on hostile input: lengths are bounded by
/// the input, nesting by the decoder's depth limit.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Result<T, WireError> {
    if bytes.len() > bytes_max {
        return Err(WireError::TooLong { bytes: bytes.len(), bytes_max });
    }
    // Read as a stream, because only such a decoder shows the bytes that it left.
    let mut decoder = rmp_serde::Deserializer::new(bytes);
    decoder.set_max_depth(32);
    let message = T::deserialize(&mut decoder)?;
    match decoder.get_ref().len() {
        0 => Ok(message),
        left => Err(WireError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attempt, Cancel, CancelReason, Lookup, ModelFingerprint, RequestId, RequestKey};
    use proptest::prelude::*;

    fn lookup() -> Lookup {
        let blocks = vec![crate::BlockHash([7; 16]); 100];
        let key = RequestKey { request: RequestId(u128::MAX - 1), attempt: Attempt(3) };
        Lookup { fingerprint: ModelFingerprint([1; 32]), blocks, key, lease_ms: 5 }
    }

    #[test]
    fn a_message_survives_its_bytes() {
        let bytes = encode(&lookup()).unwrap();
        assert_eq!(decode::<Lookup>(&bytes, bytes.len()).unwrap(), lookup());
        let key = lookup().key;
        let cancel = Cancel { key, reason: CancelReason::StopString };
        assert_eq!(decode::<Cancel>(&encode(&cancel).unwrap(), 1000).unwrap(), cancel);
    }

    #[test]
    fn a_message_that_is_too_long_or_has_a_tail_is_refused() {
        let mut bytes = encode(&lookup()).unwrap();
        let too_long = decode::<Lookup>(&bytes, bytes.len() - 1).unwrap_err();
        assert!(matches!(too_long, WireError::TooLong { .. }), "{too_long}");
        bytes.push(0);
        let tail = decode::<Lookup>(&bytes, bytes.len()).unwrap_err();
        assert!(matches!(tail, WireError::Trailing(1)), "{tail}");
    }

    #[test]
    fn a_message_cut_short_is_refused() {
        let bytes = encode(&lookup()).unwrap();
        for length in 0..bytes.len() {
            assert!(decode::<Lookup>(&bytes[..length], bytes.len()).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Lookup>(&bytes, 300);
            let _ = decode::<crate::Job>(&bytes, 300);
        }
    }
}
