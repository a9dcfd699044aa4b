//! Secrets in files that are not readable without a key kept apart: XChaCha20-Poly1305.
//!
//! The key lies in the same state directory, so this does not keep out who can read all of it. It keeps values out
//! of copies of the store or the desired set alone: backups, bug reports, a pasted file.

use std::{fmt, fs, io, os::unix::fs::PermissionsExt, path::Path};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, array::Array},
};
use grid_platform_api::{Error, ErrorKind, Result};

use crate::durable;

/// The form of a sealed value: this byte, the nonce, the text with its tag.
const VERSION: u8 = 1;
const NONCE: usize = 24;
const KEY: usize = 32;

/// A key that seals and opens values.
pub struct SealKey(XChaCha20Poly1305);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

impl SealKey {
    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY]) -> Self {
        Self(XChaCha20Poly1305::new(&Array(bytes)))
    }

    /// The key in `path`; a new one, on disk for good with mode 0600, when there is none. Blocks.
    ///
    /// # Errors
    /// `Corrupt` for a file of another length; `PermissionDenied` for one that others may read; `Internal` when
    /// the file system fails.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match Self::load(path)? {
            Some(key) => Ok(key),
            None => {
                let mut bytes = [0; KEY];
                getrandom::fill(&mut bytes).map_err(|e| {
                    Error::new(ErrorKind::Internal, "no random bytes for a key").with_source(e)
                })?;
                durable::create(path, &bytes).map_err(|e| fault("write", path, e))?;
                // Another process may have been first: what lies there now is the key.
                Self::load(path)?.ok_or_else(|| {
                    Error::new(
                        ErrorKind::Internal,
                        format!("the key `{}` vanished while it was made", path.display()),
                    )
                })
            }
        }
    }

    fn load(path: &Path) -> Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault("read", path, error)),
        };
        let bytes: [u8; KEY] = bytes.try_into().map_err(|_| {
            Error::new(
                ErrorKind::Corrupt,
                format!("`{}` is not a key of {KEY} bytes", path.display()),
            )
            .with_hint("Restore the file from a backup; without it the secrets stored here cannot be read.")
        })?;
        let mode = fs::metadata(path)
            .map_err(|e| fault("read", path, e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("others may read the key `{}`", path.display()),
            )
            .with_hint(format!("Run `chmod 600 {}`.", path.display())));
        }
        Ok(Some(Self::from_bytes(bytes)))
    }

    /// `plain` sealed; sealing it again gives other bytes.
    ///
    /// # Errors
    /// `Internal` when the system has no random bytes, or for more than 256 GiB.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let internal = |message: &str| Error::new(ErrorKind::Internal, message);
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)
            .map_err(|e| internal("no random bytes for a nonce").with_source(e))?;
        let text = self
            .0
            .encrypt(&XNonce::from(nonce), plain)
            .map_err(|_| internal("a value could not be sealed"))?;
        Ok([&[VERSION], nonce.as_slice(), &text].concat())
    }

    /// What was sealed.
    ///
    /// # Errors
    /// `Corrupt` when the bytes were changed, or were sealed by another key.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        let opened = match sealed.split_first() {
            Some((&VERSION, rest)) => rest.split_first_chunk::<NONCE>(),
            _ => None,
        }
        .and_then(|(nonce, text)| self.0.decrypt(&XNonce::from(*nonce), text).ok());
        opened.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                "a sealed value is damaged or was sealed by another key",
            )
            .with_hint("Restore the key and what it sealed from the same backup.")
        })
    }
}

fn fault(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("cannot {what} the key `{}`", path.display()),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        let first = SealKey::load_or_create(&path).unwrap();
        let again = SealKey::load_or_create(&path).unwrap();
        let sealed = first.seal(b"hunter2").unwrap();
        assert_eq!(again.open(&sealed).unwrap(), b"hunter2");
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(format!("{first:?}"), "<key>");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = SealKey::load_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.hint().unwrap().contains("chmod 600"));

        durable::write(&path, b"short").unwrap();
        let error = SealKey::load_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn only_the_same_bytes_open(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            at in any::<proptest::sample::Index>(),
            flip in 1u8..,
        ) {
            let key = SealKey::from_bytes([7; KEY]);
            let mut sealed = key.seal(&plain).unwrap();
            prop_assert_eq!(key.open(&sealed).unwrap(), plain.clone());
            prop_assert!(SealKey::from_bytes([8; KEY]).open(&sealed).is_err());
            prop_assert_ne!(key.seal(&plain).unwrap(), sealed.clone());
            let at = at.index(sealed.len());
            prop_assert!(key.open(&sealed[..at]).is_err());
            sealed[at] ^= flip;
            prop_assert!(key.open(&sealed).is_err());
        }
    }
}
