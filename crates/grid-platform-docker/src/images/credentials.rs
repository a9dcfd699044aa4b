//! Credentials of a registry, from Docker's own file or the helper that it names.

use std::{collections::HashMap, io, path::Path, process::Output, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::auth::DockerCredentials;
use grid_platform_api::{Error, ErrorKind, Result, printable};
use serde::Deserialize;
use tokio::process::Command;

use super::{
    docker_config::{DockerFile, Entry},
    reference::DOCKER_HUB,
};
use crate::error::error;

/// Under which name Docker Hub stands in the file, and with helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// How long a helper may take. It may have to ask a server of its own.
const HELPER: Duration = Duration::from_secs(20);
/// The user's name by which a helper says that its secret is a token.
const TOKEN_USER: &str = "<token>";
/// What helpers say of a registry that they do not know.
const UNKNOWN: &str = "credentials not found";

/// The credentials that Docker's file at `path` has for a registry; `None` where it has none.
///
/// # Errors
/// When the file or its helper cannot be used.
pub(super) async fn of(path: &Path, registry: &str) -> Result<Option<DockerCredentials>> {
    let owned = path.to_owned();
    let file = tokio::task::spawn_blocking(move || DockerFile::read(&owned))
        .await
        .map_err(|e| {
            error(ErrorKind::Internal, "reading credentials was cut short").with_source(e)
        })??;
    let key = match registry {
        DOCKER_HUB => HUB_KEY,
        other => other,
    };
    let helper = pick(&file.helpers, key);
    let helper = helper.map(|(_, helper)| helper).or(file.store.as_ref());
    if let Some(helper) = helper.filter(|it| !it.is_empty()) {
        return ask(helper, key).await;
    }
    match pick(&file.auths, key) {
        Some((name, entry)) => of_entry(entry, key).map_err(|why| {
            error(
                ErrorKind::InvalidConfig,
                format!(
                    "`{}` holds no credentials for `{}` that can be read: {why}",
                    path.display(),
                    printable(name)
                ),
            )
            .with_hint(format!("Write them anew by `docker login {registry}`."))
        }),
        None => Ok(None),
    }
}

/// The entry of a registry: that of its very name, or else the first by name of those that mean it.
fn pick<'a, T>(entries: &'a HashMap<String, T>, key: &str) -> Option<(&'a String, &'a T)> {
    let meant = entries.iter().filter(|(name, _)| is_of(name, key));
    entries
        .get_key_value(key)
        .or_else(|| meant.min_by_key(|(name, _)| *name))
}

/// Whether an entry's name is of this registry: names may have a scheme and a path.
fn is_of(name: &str, key: &str) -> bool {
    let host = |text: &str| {
        let text = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        text.split('/').next().unwrap_or_default().to_owned()
    };
    name == key || host(name) == host(key)
}

fn of_entry(entry: &Entry, key: &str) -> Result<Option<DockerCredentials>, &'static str> {
    let mut credentials = DockerCredentials {
        serveraddress: Some(key.to_owned()),
        ..DockerCredentials::default()
    };
    if let Some(token) = entry.identity_token.clone().filter(|it| !it.is_empty()) {
        credentials.identitytoken = Some(token);
        return Ok(Some(credentials));
    }
    match entry.auth.as_deref().filter(|it| !it.is_empty()) {
        Some(auth) => {
            let bytes = STANDARD.decode(auth.trim()).map_err(|_| "no base64")?;
            let text = String::from_utf8(bytes).map_err(|_| "no text")?;
            let (user, password) = text.split_once(':').ok_or("no user and password")?;
            credentials.username = Some(user.to_owned());
            credentials.password = Some(password.trim_end_matches('\0').to_owned());
        }
        None => {
            let (Some(user), Some(password)) = (&entry.username, &entry.password) else {
                return Ok(None);
            };
            credentials.username = Some(user.clone());
            credentials.password = Some(password.clone());
        }
    }
    Ok(Some(credentials))
}

/// What a helper answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks the program `docker-credential-HELPER`: the registry goes to its standard input, the answer is JSON.
async fn ask(helper: &str, key: &str) -> Result<Option<DockerCredentials>> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !helper.chars().all(fine) {
        return Err(error(
            ErrorKind::InvalidConfig,
            format!("`{}` is no credential helper", printable(helper)),
        )
        .with_hint("Mend `credsStore` or `credHelpers` in Docker's `config.json`."));
    }
    let program = format!("docker-credential-{helper}");
    let output = match tokio::time::timeout(HELPER, talk(&program, key)).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == io::ErrorKind::FileTooLarge => {
            return Err(failed(&program, &format!("is of no use: {e}")));
        }
        Ok(Err(e)) => return Err(failed(&program, "cannot be run").with_source(e)),
        Err(_) => {
            return Err(failed(
                &program,
                &format!("does not answer within {HELPER:?}"),
            ));
        }
    };
    judge(&program, key, output)
}

/// What a helper's answer says.
fn judge(program: &str, key: &str, output: Output) -> Result<Option<DockerCredentials>> {
    if !output.status.success() {
        // Both are outputs that helpers explain themselves by, and neither holds a secret then.
        let words = [output.stdout, output.stderr].concat();
        let words = String::from_utf8_lossy(&words);
        if words.contains(UNKNOWN) {
            return Ok(None);
        }
        return Err(failed(
            program,
            &format!("fails: {}", printable(words.trim())),
        ));
    }
    let answer: Answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed(program, "answers what cannot be understood"))?;
    let mut credentials = DockerCredentials {
        serveraddress: Some(key.to_owned()),
        ..DockerCredentials::default()
    };
    if answer.user == TOKEN_USER {
        credentials.identitytoken = Some(answer.secret);
    } else {
        credentials.username = Some(answer.user);
        credentials.password = Some(answer.secret);
    }
    Ok(Some(credentials))
}

async fn talk(program: &str, key: &str) -> io::Result<Output> {
    let mut command = Command::new(program);
    grid_platform_host::program::output(command.arg("get"), key.as_bytes()).await
}

fn failed(program: &str, why: &str) -> Error {
    error(
        ErrorKind::InvalidConfig,
        format!("the credential helper `{program}` {why}"),
    )
    .with_hint("Install it on the agent's `PATH`, or take it out of Docker's `config.json` and log in again by `docker login`.")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    async fn look(json: &str, registry: &str) -> Result<Option<(String, String)>> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.json");
        fs::write(&path, json).unwrap();
        let found = of(&path, registry).await?;
        Ok(found.map(|it| match it.identitytoken {
            Some(token) => (TOKEN_USER.to_owned(), token),
            None => (it.username.unwrap(), it.password.unwrap()),
        }))
    }

    #[tokio::test]
    async fn the_file_has_credentials_by_registry() {
        let pair = |user: &str, secret: &str| Some((user.to_owned(), secret.to_owned()));
        // `me:pass:word` and `hub:h`.
        let json = r#"{"auths":{
            "localhost:5000":{"auth":"bWU6cGFzczp3b3Jk"},
            "https://index.docker.io/v1/":{"auth":"aHViOmg="},
            "https://gcr.io/v2/":{"identitytoken":"t"},
            "plain.example":{"username":"u","password":"p"},
            "empty.example":{},
            "bad.example":{"auth":"%%"}}}"#;
        let look = async |registry: &str| look(json, registry).await;
        assert_eq!(
            look("localhost:5000").await.unwrap(),
            pair("me", "pass:word")
        );
        assert_eq!(look("docker.io").await.unwrap(), pair("hub", "h"));
        assert_eq!(look("gcr.io").await.unwrap(), pair(TOKEN_USER, "t"));
        assert_eq!(look("plain.example").await.unwrap(), pair("u", "p"));
        assert_eq!(look("empty.example").await.unwrap(), None);
        assert_eq!(look("other.example").await.unwrap(), None);
        assert_eq!(look("localhost:5001").await.unwrap(), None);
        let error = look("bad.example").await.unwrap_err();
        assert!(error.hint().unwrap().contains("docker login bad.example"));
    }

    #[test]
    fn of_several_entries_the_same_one_is_taken_each_time() {
        let entries = |names: &[&str]| -> HashMap<String, ()> {
            names.iter().map(|it| ((*it).to_owned(), ())).collect()
        };
        let check = |names: &[&str], expect: Option<&str>| {
            // Each map has an order of its own.
            for _ in 0..32 {
                let entries = entries(names);
                let found = pick(&entries, "x.example").map(|(name, ())| name.as_str());
                assert_eq!(found, expect, "{names:?}");
            }
        };
        let others = ["https://x.example/v2/", "http://x.example", "x.example/a"];
        check(&others, Some("http://x.example"));
        check(&[&others[..], &["x.example"]].concat(), Some("x.example"));
        check(&["y.example"], None);
    }

    #[tokio::test]
    async fn a_helper_is_asked_by_its_protocol() {
        let home = tempfile::tempdir().unwrap();
        let helper = home.path().join("docker-credential-test");
        let script = r#"#!/bin/sh
test "$1" = get || exit 9
read -r key
case $key in
known.example) echo '{"ServerURL":"known.example","Username":"u","Secret":"s"}' ;;
token.example) echo '{"Username":"<token>","Secret":"t"}' ;;
odd.example) echo 'secret stuff' ;;
broken.example) echo 'the keychain is locked' >&2; exit 1 ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"#;
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let ask = async |key: &str| {
            let output = talk(helper.to_str().unwrap(), key).await.unwrap();
            judge("docker-credential-test", key, output)
        };
        let known = ask("known.example").await.unwrap().unwrap();
        assert_eq!(known.username.as_deref(), Some("u"));
        assert_eq!(known.password.as_deref(), Some("s"));
        let token = ask("token.example").await.unwrap().unwrap();
        assert_eq!(token.identitytoken.as_deref(), Some("t"));
        assert!(ask("other.example").await.unwrap().is_none());
        let error = ask("broken.example").await.unwrap_err();
        assert!(
            error.to_string().contains("the keychain is locked"),
            "{error}"
        );
        let error = ask("odd.example").await.unwrap_err();
        assert!(
            !error.report().contains("secret stuff"),
            "{}",
            error.report()
        );
    }

    #[tokio::test]
    async fn a_helper_that_is_not_there_is_named() {
        let json = r#"{"credsStore":"no-such-helper"}"#;
        let error = look(json, "x.example").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("docker-credential-no-such-helper"),
            "{error}"
        );
        let json =
            r#"{"credHelpers":{"x.example":"../evil"},"auths":{"y.example":{"auth":"dTpw"}}}"#;
        let error = look(json, "x.example").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        // Other registries have nothing to do with it.
        assert!(look(json, "y.example").await.unwrap().is_some());
    }
}
