//! Docker's own `config.json`: the context in use, and who knows which registry's credentials.

use std::{collections::HashMap, fs, io, path::Path};

use grid_platform_api::{ErrorKind, Result};
use serde::Deserialize;

use crate::{context::unreadable, error::error};

/// The little of the file that is of use here. It is read anew each time: `docker login` changes it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct DockerFile {
    #[serde(rename = "currentContext")]
    pub(crate) current_context: Option<String>,
    pub(super) auths: HashMap<String, Entry>,
    #[serde(rename = "credsStore")]
    pub(super) store: Option<String>,
    #[serde(rename = "credHelpers")]
    pub(super) helpers: HashMap<String, String>,
}

/// What the file itself holds for a registry. With a store it is often nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Entry {
    pub(super) auth: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    #[serde(rename = "identitytoken")]
    pub(super) identity_token: Option<String>,
}

impl DockerFile {
    /// Reads it; one that is not there says nothing.
    ///
    /// # Errors
    /// When it is there and cannot be read or understood.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(unreadable(path, e)),
        };
        serde_json::from_slice(&text).map_err(|e| {
            // Of the fault only its place is told: the text around it may be a password.
            error(
                ErrorKind::InvalidConfig,
                format!(
                    "cannot understand `{}`: line {}, column {}",
                    path.display(),
                    e.line(),
                    e.column()
                ),
            )
            .with_hint("Mend the file, or name another one by `docker.config_file`; `docker login` writes it.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_its_absence_is_none() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.json");
        assert!(DockerFile::read(&path).unwrap().current_context.is_none());
        fs::write(
            &path,
            r#"{"auths":{"r":{}},"currentContext":"x","HttpHeaders":{"a":"b"}}"#,
        )
        .unwrap();
        let file = DockerFile::read(&path).unwrap();
        assert_eq!(file.current_context.as_deref(), Some("x"));
        assert!(file.auths.contains_key("r"));
        fs::write(&path, r#"{"auths":{"r":{"auth":7,"password":"secret"}}}"#).unwrap();
        let error = DockerFile::read(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(!error.report().contains("secret"), "{}", error.report());
    }
}
