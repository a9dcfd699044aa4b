//! What is wrong with settings.

use std::fmt;

use crate::Source;

/// Settings that cannot be used: which key, where it stands, and the mend.
///
/// [`fmt::Display`] gives the primary line alone; [`report`](Self::report) the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    message: String,
    hint: Option<String>,
}

impl ConfigError {
    /// An error of these words: lower case, no full stop, things in backticks.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// An error about the value at `key`, which stands in `source`; `problem` ends the sentence.
    ///
    /// ```
    /// # use grid_config::{ConfigError, Source};
    /// let source = Source::Flag { flag: "--port".into() };
    /// let error = ConfigError::about("server.port", &source, "is taken");
    /// assert_eq!(error.to_string(), "`server.port` in the flag `--port` is taken");
    /// ```
    pub fn about(key: &str, source: &Source, problem: impl fmt::Display) -> Self {
        Self::new(match source {
            Source::Default => format!("`{key}` {problem}"),
            source => format!("`{key}` in {source} {problem}"),
        })
    }

    /// Adds a sentence that names the key, command or feature that mends it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The sentence that names the mend.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The whole as people read it: `error: ...` and `hint: ...`, each on its line.
    pub fn report(&self) -> String {
        match &self.hint {
            Some(hint) => format!("error: {}\nhint: {hint}\n", self.message),
            None => format!("error: {}\n", self.message),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
