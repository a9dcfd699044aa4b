//! Pulling an image from its registry.

use std::time::{Duration, Instant};

use bollard::{auth::DockerCredentials, query_parameters::CreateImageOptionsBuilder};
use grid_platform_api::{Error, ErrorKind, Failure, FailureReason, NodeId, Result};

use super::{
    credentials,
    progress::{Layers, Teller},
    reference,
};
use crate::{
    config::DockerConfig,
    engine::Engine,
    error::{Fault, error},
};

/// How long the engine may say nothing in the middle of a pull. It tries a registry that does not answer several times
/// by itself, and looks a layer of some GiB through without a word.
const SILENCE: Duration = Duration::from_secs(300);
/// How often is looked whether the engine says nothing; people are told when it has been so for a while.
const LOOK: Duration = Duration::from_secs(1);
const A_WHILE: Duration = Duration::from_secs(5);

/// Pulls it. Dropping the future ends the pull.
///
/// # Errors
/// `SpawnFailed` with the reason; what keeps the engine from answering.
pub(super) async fn pull(
    engine: &Engine,
    config: &DockerConfig,
    node: &NodeId,
    reference: &str,
    teller: &Teller<'_>,
) -> Result<()> {
    let registry = reference::registry(reference);
    let known = match &config.config_file {
        Some(path) => credentials::of(path, registry).await?,
        None => None,
    };
    let as_whom = known.is_some();
    tracing::info!(%node, image = reference, with_credentials = as_whom, "pulling an image");
    fetch(engine, reference, known, teller)
        .await
        .map_err(|fault| failed(node, reference, as_whom, fault))
}

async fn fetch(
    engine: &Engine,
    reference: &str,
    credentials: Option<DockerCredentials>,
    teller: &Teller<'_>,
) -> Result<(), Fault> {
    let (name, version) = reference::split(reference);
    let options = CreateImageOptionsBuilder::new()
        .from_image(name)
        .tag(version)
        .build();
    let mut messages = engine.docker.create_image(Some(options), None, credentials);
    let mut layers = Layers::default();
    let mut heard = Instant::now();
    loop {
        teller.tell(|| {
            let mut progress = layers.progress(reference);
            let silent = heard.elapsed();
            if silent >= A_WHILE {
                let seconds = silent.as_secs();
                progress.message += &format!(", no news for {seconds} s");
            }
            progress
        });
        match engine.next(LOOK, &mut messages).await {
            Ok(Some(message)) => {
                heard = Instant::now();
                layers.take(&message);
            }
            Ok(None) => return Ok(()),
            Err(Fault::Silent(_)) if heard.elapsed() < SILENCE => {}
            Err(Fault::Silent(_)) => return Err(Fault::Silent(SILENCE)),
            Err(fault) => return Err(fault),
        }
    }
}

/// What the engine's words about a failed pull mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// There is no such image, or not for this caller: registries do not tell which.
    NotThere,
    /// The registry wants other credentials.
    Refused,
    /// The registry cannot be reached, or is busy: it may be later.
    Away,
    /// It is an image of another machine.
    OtherMachine,
    /// No reference that an engine understands.
    NoReference,
    /// The engine's disk is full.
    Full,
    Other,
}

fn meaning(status: u16, words: &str) -> Meaning {
    let has = |parts: &[&str]| parts.iter().any(|it| words.contains(it));
    if has(&["no space left on device"]) {
        Meaning::Full
    } else if has(&[
        "no matching manifest",
        "no image found in manifest list",
        "image operating system",
    ]) {
        Meaning::OtherMachine
    } else if has(&[
        "invalid reference format",
        "invalid tag format",
        "must be lowercase",
    ]) {
        Meaning::NoReference
    } else if has(&[
        "no basic auth credentials",
        "unauthorized",
        "authentication required",
        "incorrect username or password",
    ]) {
        Meaning::Refused
    } else if has(&[
        "connection refused",
        "no such host",
        "server misbehaving",
        "i/o timeout",
        "TLS handshake timeout",
        "Client.Timeout",
        "context deadline exceeded",
        "network is unreachable",
        "no route to host",
        "connection reset",
        "unexpected EOF",
        "toomanyrequests",
        "Too Many Requests",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "received unexpected HTTP status: 5",
    ]) {
        Meaning::Away
    } else if status == 404
        || has(&[
            "manifest unknown",
            "not found",
            "does not exist",
            "denied",
            "name unknown",
        ])
    {
        Meaning::NotThere
    } else {
        Meaning::Other
    }
}

/// The error of what no engine takes for an image's name, if that is what its words are about.
pub(super) fn refused_as_reference(reference: &str, fault: &Fault) -> Option<Error> {
    let Fault::Refused { status, message } = fault else {
        return None;
    };
    let is_it = meaning(*status, message) == Meaning::NoReference;
    is_it.then(|| no_reference(reference, message.trim()))
}

fn no_reference(reference: &str, words: &str) -> Error {
    error(
        ErrorKind::InvalidConfig,
        format!("`{reference}` is no image reference: {words}"),
    )
    .with_hint("Write it as `registry/name:tag` or `name:tag`, in lower case.")
}

fn failed(node: &NodeId, reference: &str, as_whom: bool, fault: Fault) -> Error {
    let registry = reference::registry(reference);
    let (status, words) = match &fault {
        Fault::Refused { status, message } => (*status, message.trim().to_owned()),
        Fault::Silent(limit) => (504, format!("the engine said nothing for {limit:?}")),
        // The engine is away, and not the registry.
        Fault::Away(_) | Fault::Broken(_) | Fault::Strange(_) => {
            return fault.into_error(format!("pull the image `{reference}`"));
        }
    };
    let spawn_failed = |reason, what: String| {
        Error::spawn_failed(node, Failure::new(reason, format!("{what}: {words}")))
    };
    match meaning(status, &words) {
        Meaning::NotThere => spawn_failed(
            FailureReason::ImageNotFound,
            format!("the registry `{registry}` has no image `{reference}`"),
        )
        .with_hint(match as_whom {
            true => format!("Check the name; `docker build -t {reference} .` makes an image of it, `docker pull {reference}` says whether the engine can get it."),
            false => format!("Check the name, or log in by `docker login {registry}` and name Docker's `config.json` by `docker.config_file`; `docker build -t {reference} .` makes an image."),
        }),
        Meaning::Refused => spawn_failed(
            FailureReason::ImagePullFailed,
            format!("the registry `{registry}` refuses the image `{reference}`"),
        )
        .with_hint(match as_whom {
            true => format!("The credentials in `docker.config_file` are not good for it: log in again by `docker login {registry}`."),
            false => format!("Log in by `docker login {registry}`, and name Docker's `config.json` by `docker.config_file`."),
        }),
        Meaning::Away => spawn_failed(
            FailureReason::ImagePullFailed,
            format!("the registry `{registry}` cannot be reached for the image `{reference}`"),
        )
        .with_retryable(true)
        .with_hint("It is tried again. Without a registry, build the image with `docker build`, or name a file that `docker save` made by `docker.image_archive`."),
        Meaning::OtherMachine => spawn_failed(
            FailureReason::ImagePullFailed,
            format!("the image `{reference}` is not for the engine's machine"),
        )
        .with_hint("Name an image that was built for its architecture."),
        Meaning::NoReference => no_reference(reference, &words),
        Meaning::Full => error(
            ErrorKind::Exhausted,
            format!("the engine has no room for the image `{reference}`"),
        )
        .with_source(fault)
        .with_hint("Free some disk space where the engine keeps its data: `docker system df` says what takes it."),
        Meaning::Other => spawn_failed(
            FailureReason::ImagePullFailed,
            format!("cannot pull the image `{reference}`"),
        )
        .with_hint(format!("`docker pull {reference}` on the engine's host says more.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_have_a_meaning() {
        let check = |status: u16, words: &str, expect: Meaning| {
            assert_eq!(meaning(status, words), expect, "{words}");
        };
        check(
            404,
            "manifest for localhost:5000/x:1 not found: manifest unknown: manifest unknown",
            Meaning::NotThere,
        );
        check(
            404,
            "pull access denied for nope, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            Meaning::NotThere,
        );
        check(
            500,
            "Head \"http://localhost:5000/v2/x/manifests/1\": no basic auth credentials",
            Meaning::Refused,
        );
        check(
            500,
            "Get \"https://r/v2/\": unauthorized: incorrect username or password",
            Meaning::Refused,
        );
        check(
            500,
            "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
            Meaning::Away,
        );
        check(
            500,
            "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            Meaning::Away,
        );
        check(
            500,
            "no matching manifest for linux/s390x in the manifest list entries",
            Meaning::OtherMachine,
        );
        check(400, "invalid reference format", Meaning::NoReference);
        check(
            500,
            "write /var/lib/docker/tmp/GetImageBlob1: no space left on device",
            Meaning::Full,
        );
        check(500, "something new", Meaning::Other);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let node = NodeId::new("n1").unwrap();
        let check = |status, message: &str, kind: ErrorKind, retryable: bool| {
            let message = message.to_owned();
            let fault = Fault::Refused { status, message };
            let error = failed(&node, "r.example/x:1", false, fault);
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable));
            assert!(error.hint().is_some(), "{error}");
        };
        check(404, "not found", ErrorKind::SpawnFailed, false);
        check(500, "unauthorized", ErrorKind::SpawnFailed, false);
        check(500, "i/o timeout", ErrorKind::SpawnFailed, true);
        check(
            400,
            "invalid reference format",
            ErrorKind::InvalidConfig,
            false,
        );
        check(500, "no space left on device", ErrorKind::Exhausted, true);
    }
}
