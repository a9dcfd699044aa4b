//! Images made of nothing: a few files and what an engine has to know, as an archive that engines load.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::encode;
use crate::{Answer, Api, Tar};

/// An image FROM scratch with one layer.
#[derive(Debug, Clone)]
pub struct Image {
    layer: Tar,
    config: Map<String, Value>,
}

impl Image {
    /// An image of these files.
    pub fn new(layer: Tar) -> Self {
        Self {
            layer,
            config: Map::new(),
        }
    }

    /// Sets the program that a container runs.
    #[must_use]
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    /// Sets a value of the image's `config` (OCI image specification), such as `User`, `ExposedPorts`, `Healthcheck`.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// The archive that `docker load` reads, with the image under this name. The same image is the same bytes.
    pub fn archive(self, name: &str) -> Vec<u8> {
        let layer = self.layer.finish();
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": arch,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sum(&layer))] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "scratch" }],
        })
        .to_string();
        let config_name = format!("{}.json", sum(config.as_bytes()));
        let manifest =
            json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]);
        Tar::default()
            .file(&config_name, 0o644, config.as_bytes())
            .file("layer.tar", 0o644, &layer)
            .file("manifest.json", 0o644, manifest.to_string().as_bytes())
            .finish()
    }

    /// Brings the image to an engine, under this name.
    ///
    /// # Errors
    /// The engine's words.
    pub fn load(self, api: &Api, name: &str) -> Result<(), String> {
        let archive = self.archive(name);
        let answer = api.send("POST", "/images/load", "application/x-tar", &archive)?;
        said_no_error(&answer).map_err(|why| format!("the image `{name}` is not loaded: {why}"))
    }
}

/// Builds an image of this context, a tar archive with a `Dockerfile`, under this name.
///
/// # Errors
/// The engine's words.
pub fn build(api: &Api, name: &str, context: &[u8]) -> Result<(), String> {
    let path = format!("/build?t={}&rm=true&forcerm=true", encode(name));
    said_no_error(&api.send("POST", &path, "application/x-tar", context)?)
}

/// The engine answers with 200 before it has begun: what went wrong stands in the lines that follow.
pub(crate) fn said_no_error(answer: &Answer) -> Result<(), String> {
    answer.ok()?;
    let text = String::from_utf8_lossy(&answer.body);
    for line in text.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(error) = said["error"].as_str() {
            return Err(error.to_owned());
        }
    }
    Ok(())
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_image_is_the_same_bytes() {
        let image = |text: &str| {
            let layer = Tar::default().file("a", 0o755, text.as_bytes());
            Image::new(layer).entrypoint(&["/a"]).archive("x:1")
        };
        assert_eq!(image("a"), image("a"));
        assert_ne!(image("a"), image("b"));
    }

    #[test]
    fn an_error_behind_a_good_status_is_one() {
        let answer = |status, body: &str| Answer {
            status,
            body: body.as_bytes().to_vec(),
        };
        let check = |it: Answer| said_no_error(&it);
        assert_eq!(check(answer(200, "{\"stream\":\"Loaded\"}\n")), Ok(()));
        assert_eq!(
            check(answer(
                200,
                "{\"stream\":\"a\"}\n{\"error\":\"no space\"}\n"
            )),
            Err("no space".into())
        );
        assert!(check(answer(404, "{\"message\":\"no such image\"}")).is_err());
    }
}
