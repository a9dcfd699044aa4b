//! The index's row of one object, and its bytes on disk.
//!
//! A row is a checked head, then (for small objects) the body itself:
//!
//! ```text
//! u32 crc of key and head | u8 version | u8 kind | u64 generation | u64 size | u32 body crc
//! | i64 modified, ms | u16 length, content type | kind file: u64 file id, u32 trailer crc
//! | kind inline: the body
//! ```
//!
//! All integers are little-endian. The head's checksum takes the key in, so that a row that
//! ends up under another key is found out too.

use bytes::Bytes;

use crate::error::Error;
use crate::key::Key;

const ROW_VERSION: u8 = 1;
const KIND_INLINE: u8 = 0;
const KIND_FILE: u8 = 1;

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the row.
    Inline(Bytes),
    /// In a content file, whose trailer of chunk checksums has this checksum.
    File { id: u64, trailer_crc: u32 },
}

/// Everything the index knows of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Grows with every write to the store, so that it tells two versions of one key apart.
    pub(crate) generation: u64,
    pub(crate) size: u64,
    /// CRC-32 (IEEE) of the whole body.
    pub(crate) crc: u32,
    pub(crate) modified_ms: i64,
    pub(crate) content_type: String,
    pub(crate) place: Place,
}

impl Row {
    /// The number of the content file, if the body is in one.
    pub(crate) fn file(&self) -> Option<u64> {
        match self.place {
            Place::File { id, .. } => Some(id),
            Place::Inline(_) => None,
        }
    }

    pub(crate) fn encode(&self, key: &Key) -> Vec<u8> {
        let body: &[u8] = match &self.place {
            Place::Inline(body) => body,
            Place::File { .. } => &[],
        };
        let mut out = Vec::with_capacity(64 + self.content_type.len() + body.len());
        out.extend_from_slice(&[0; 4]);
        out.push(ROW_VERSION);
        out.push(if matches!(self.place, Place::Inline(_)) {
            KIND_INLINE
        } else {
            KIND_FILE
        });
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.modified_ms.to_le_bytes());
        // The HTTP layer bounds the content type far below 64 KiB.
        let content_type = self.content_type.as_bytes();
        let len = u16::try_from(content_type.len()).unwrap_or(0);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&content_type[..usize::from(len)]);
        if let Place::File { id, trailer_crc } = self.place {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&trailer_crc.to_le_bytes());
        }
        let crc = head_crc(key, &out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Reads a row back, with its body's bytes but without checking them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] when the head is not what was written under this key.
    pub(crate) fn decode(key: &Key, bytes: &[u8]) -> Result<Self, Error> {
        Self::parse(key, bytes).ok_or_else(|| {
            Error::corrupt(format!(
                "the index's row of `{key}` does not have its checksum"
            ))
        })
    }

    fn parse(key: &Key, bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let crc = u32::from_le_bytes(input.take()?);
        let [version] = input.take()?;
        let [kind] = input.take()?;
        let generation = u64::from_le_bytes(input.take()?);
        let size = u64::from_le_bytes(input.take()?);
        let body_crc = u32::from_le_bytes(input.take()?);
        let modified_ms = i64::from_le_bytes(input.take()?);
        let len = usize::from(u16::from_le_bytes(input.take()?));
        let content_type = input.slice(len)?;
        let file = match kind {
            KIND_INLINE => None,
            KIND_FILE => Some((
                u64::from_le_bytes(input.take()?),
                u32::from_le_bytes(input.take()?),
            )),
            _ => return None,
        };
        let head = &bytes[4..bytes.len() - input.0.len()];
        if version != ROW_VERSION || head_crc(key, head) != crc {
            return None;
        }
        let place = match file {
            Some((id, trailer_crc)) => Place::File { id, trailer_crc },
            None => Place::Inline(Bytes::copy_from_slice(input.0)),
        };
        Some(Self {
            generation,
            size,
            crc: body_crc,
            modified_ms,
            content_type: String::from_utf8(content_type.to_vec()).ok()?,
            place,
        })
    }
}

fn head_crc(key: &Key, head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_str().as_bytes());
    hasher.update(head);
    hasher.finalize()
}

/// What is left to read of a row.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(place: Place) -> Row {
        Row {
            generation: 7,
            size: 5,
            crc: crc32fast::hash(b"hello"),
            modified_ms: 1_700_000_000_000,
            content_type: "text/plain".to_owned(),
            place,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let key = Key::new("a/b").unwrap();
        for place in [
            Place::Inline(Bytes::from_static(b"hello")),
            Place::Inline(Bytes::new()),
            Place::File {
                id: u64::MAX,
                trailer_crc: 9,
            },
        ] {
            let row = row(place);
            assert_eq!(Row::decode(&key, &row.encode(&key)).unwrap(), row);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_head_and_every_truncation_is_found() {
        let key = Key::new("a/b").unwrap();
        let bytes = row(Place::File {
            id: 3,
            trailer_crc: 9,
        })
        .encode(&key);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Row::decode(&key, &bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Row::decode(&key, &bytes[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_row_under_another_key_is_found() {
        let bytes =
            row(Place::Inline(Bytes::from_static(b"hello"))).encode(&Key::new("a").unwrap());
        assert!(Row::decode(&Key::new("b").unwrap(), &bytes).is_err());
    }
}
