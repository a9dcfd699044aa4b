//! How a case fails.

use std::fmt;

/// What a case, a harness or a fixture gives.
pub type Outcome<T = ()> = std::result::Result<T, Failed>;

/// Why a case failed, in words. A case may panic as well, by `assert!` and the like.
#[derive(Debug)]
pub struct Failed(String);

impl Failed {
    /// A failure in these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// Puts what was being done before the words.
    #[must_use]
    pub fn during(self, what: &str) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<grid_platform_api::Error> for Failed {
    fn from(error: grid_platform_api::Error) -> Self {
        let operation = error.operation().unwrap_or("some call");
        Self(format!(
            "{operation} failed ({}): {}",
            error.kind(),
            error.report().trim_end()
        ))
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Failed {
    fn from(words: String) -> Self {
        Self(words)
    }
}

impl From<&str> for Failed {
    fn from(words: &str) -> Self {
        Self(words.to_owned())
    }
}
