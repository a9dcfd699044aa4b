//! The agent's token, as its file has it.

use std::path::Path;

use grid_platform_api::{Error, ErrorKind, Result};

/// The largest token file, in bytes: far above every one that is one.
const MAX_FILE: u64 = 4096;

/// The token in the file, without the blanks around it.
///
/// # Errors
/// `PermissionDenied`, which a retry can help: a file that is not there, is no file, is too large, is not text or is
/// empty.
pub(crate) async fn read(path: &Path) -> Result<String> {
    let fault = |why: String| {
        Error::new(
            ErrorKind::PermissionDenied,
            format!("cannot read the token file `{}`: {why}", path.display()),
        )
        .with_retryable(true)
        .with_hint("Set `agent.token_file` to the file with this agent's token; a master makes one in its state directory as `tokens/agent`.")
    };
    // Looked at first: to open a pipe or to read a device may last for ever.
    let meta = tokio::fs::metadata(path)
        .await
        .map_err(|error| fault(error.to_string()))?;
    if !meta.is_file() {
        return Err(fault("it is no file".into()));
    }
    if meta.len() > MAX_FILE {
        return Err(fault(format!(
            "it has {} bytes, more than {MAX_FILE}",
            meta.len()
        )));
    }
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|error| fault(error.to_string()))?;
    match text.trim() {
        "" => Err(fault("it is empty".into())),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn what_is_no_token_file_is_said_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("token"), " secret\n").unwrap();
        assert_eq!(read(&at("token")).await.unwrap(), "secret");

        fs::write(at("empty"), "\n").unwrap();
        fs::write(at("large"), vec![b'x'; 5000]).unwrap();
        fs::write(at("binary"), [0xff]).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).unwrap();
        for (name, why) in [
            ("none", "No such file"),
            ("empty", "it is empty"),
            ("large", "5000 bytes, more than 4096"),
            ("binary", "UTF-8"),
            ("pipe", "it is no file"),
            ("", "it is no file"),
        ] {
            let error = read(&at(name)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name}");
            assert!(error.is_retryable() && error.hint().is_some(), "{name}");
            assert!(error.to_string().contains(why), "{error}");
        }
        let device = read(Path::new("/dev/zero")).await.unwrap_err();
        assert!(device.to_string().contains("it is no file"), "{device}");
    }
}
