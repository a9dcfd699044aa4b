//! Object keys.

use std::borrow::Borrow;
use std::fmt;

use crate::error::{Error, ErrorKind};

/// The longest key, in bytes of UTF-8. The figure is that of S3, so that its clients' keys fit.
pub const MAX_KEY_BYTES: usize = 1024;

/// The name of an object: 1 to [`MAX_KEY_BYTES`] bytes of UTF-8 without control characters.
///
/// Slashes are ordinary characters: there are no directories, and a key never becomes a path
/// on disk, so that `..` is as harmless as any other text.
///
/// ```
/// use grid_storage::Key;
/// assert_eq!(Key::new("photos/2026/a.jpg").unwrap().as_str(), "photos/2026/a.jpg");
/// assert!(Key::new("").is_err());
/// assert!(Key::new("line\nbreak").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Checks `text` against the grammar.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`], saying which rule was broken.
    pub fn new(text: impl Into<String>) -> Result<Self, Error> {
        let text = text.into();
        let problem = if text.is_empty() {
            "the key is empty".to_owned()
        } else if text.len() > MAX_KEY_BYTES {
            format!(
                "the key has {} bytes, more than {MAX_KEY_BYTES}",
                text.len()
            )
        } else if text.chars().any(char::is_control) {
            "the key holds a control character".to_owned()
        } else {
            return Ok(Self(text));
        };
        Err(Error::new(
            ErrorKind::InvalidKey,
            problem,
            format!(
                "Use 1 to {MAX_KEY_BYTES} bytes of UTF-8 without control characters; slashes are fine."
            ),
        ))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Keys sort as their text, so that maps of keys are searched by text.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_is_text_within_bounds_and_nothing_else(text in "[\\x00-\\x{2fff}]{0,400}") {
            let fits = (1..=MAX_KEY_BYTES).contains(&text.len()) && !text.contains(char::is_control);
            match Key::new(text.clone()) {
                Ok(key) => prop_assert!(fits && key.as_str() == text),
                Err(error) => {
                    prop_assert!(!fits);
                    prop_assert!(!error.to_string().contains(char::is_control));
                }
            }
        }
    }

    #[test]
    fn grammar() {
        let check = |text: &str, ok: bool| assert_eq!(Key::new(text).is_ok(), ok, "{text:?}");
        check("a", true);
        check("a/b//c/", true);
        check("../../etc/passwd", true);
        check("ünïcode/☃", true);
        check(" spaces ", true);
        check("", false);
        check("nul\0", false);
        check("tab\t", false);
        check("c1\u{85}", false);
        check(&"x".repeat(MAX_KEY_BYTES), true);
        check(&"x".repeat(MAX_KEY_BYTES + 1), false);
    }
}
