//! Texts on disk that tell when they were changed.
//!
//! What an adapter or an agent keeps of a node decides what is started, stopped and deleted. One bit that a disk
//! flipped can leave a JSON text well-formed, with another port or another path in it; so its last line is a checksum.
//! It keeps no enemy out: who may write the file may write the line.

use sha2::{Digest as _, Sha256};

use crate::{Error, ErrorKind, Result, digest::hex};

/// What the last line begins with; no JSON text has such a line.
const MARK: &[u8] = b"\n#sha256 ";
/// How many bytes of the digest stand there.
const KEPT: usize = 8;

/// The text, a line feed, and the line that checks it.
pub fn seal(mut text: Vec<u8>) -> Vec<u8> {
    let line = line(&text);
    text.extend_from_slice(&line);
    text
}

/// The text that was sealed. One without the line is given as it is: an earlier version wrote it, or somebody changed
/// it on purpose and took the line away.
///
/// # Errors
/// `Corrupt` when the text or the line is not as it was sealed.
pub fn open(sealed: &[u8]) -> Result<&[u8]> {
    let found = sealed.windows(MARK.len()).rposition(|it| it == MARK);
    let Some((text, rest)) = found.and_then(|at| sealed.split_at_checked(at)) else {
        return Ok(sealed);
    };
    if rest == line(text) {
        return Ok(text);
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        "its checksum, the last line, is not that of the text above it",
    ))
}

fn line(text: &[u8]) -> Vec<u8> {
    let digest = Sha256::digest(text);
    let kept = hex(digest.get(..KEPT).unwrap_or_default());
    [MARK, kept.as_bytes(), b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = br##"{"a":1,"b":"#sha256 "}"##;

    #[test]
    fn what_was_sealed_is_opened_and_what_has_no_line_is_given_as_it_is() {
        for text in [TEXT, b"", b"{\n}\n"] {
            assert_eq!(open(&seal(text.to_vec())).unwrap(), text);
            assert_eq!(open(text).unwrap(), text);
        }
        assert_eq!(
            open(&seal(seal(TEXT.to_vec()))).unwrap(),
            seal(TEXT.to_vec())
        );
    }

    #[test]
    fn no_cut_and_no_flipped_bit_gives_another_json_text() {
        let read = |bytes: &[u8]| -> Option<serde_json::Value> {
            serde_json::from_slice(open(bytes).ok()?).ok()
        };
        let sealed = seal(TEXT.to_vec());
        let value = read(&sealed).unwrap();
        for len in 0..sealed.len() {
            // All of the text and nothing of the line is the text.
            let expect = (len == TEXT.len() || len == TEXT.len() + 1).then_some(&value);
            assert_eq!(read(&sealed[..len]).as_ref(), expect, "{len}");
        }
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(read(&flipped), None, "byte {at}, bit {bit}");
            }
        }
    }
}
