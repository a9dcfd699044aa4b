//! The one error of this crate: what went wrong, and the mend.

use std::fmt;

/// A task's result.
pub(crate) type Result<T> = std::result::Result<T, Fail>;

/// Why a task failed. Shown as the repository's other errors are: a primary line, then a hint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fail {
    message: String,
    hint: Option<String>,
}

impl Fail {
    /// A failure with its primary line: lower case, no full stop. An empty one has said its piece already.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// The primary line by itself, to stand within another sentence.
    pub(crate) fn into_message(self) -> String {
        self.message
    }

    /// Adds the sentence that says how to mend it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            writeln!(f, "error: {}", self.message)?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}
