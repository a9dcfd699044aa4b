//! The nodes' logs, as the engine keeps them.
//!
//! The engine names no place in a log, its times may be equal and go backwards, and its own following loses lines when the log is
//! rotated. So a log is only ever read as what there is now, from a place on that is found again by what is written there
//! (`walk.rs`, `reader.rs`): the last entries first, more of them until the place is among them, and when it is nowhere, rotation took
//! it and that is a gap. The engine's following is listened to only to hear that there is more (`follow.rs`). What is read does not
//! depend on anything that an agent remembers, so that a follower goes on behind its position over restarts of the engine and the
//! agent alike.

mod cursor;
mod follow;
mod frames;
mod reader;
mod source;
mod tail;
mod walk;

use std::{collections::HashMap, sync::Arc};

use bollard::models::HostConfigLogConfig;
use grid_platform_api::{Error, ErrorKind, LogCursor, LogStream, NodeId, Result, Timestamp};

use source::Log;

use crate::{
    error::{Fault, error},
    platform::Inner,
};

/// In how many files the engine keeps a log: when one is full, the oldest goes.
const FILES: u64 = 4;
/// The driver of Podman's, which keeps lines in pieces.
pub(crate) const PIECES: &str = "k8s-file";

/// How a container's log is kept: within so many bytes, by the best of the drivers that the engine has.
pub(crate) fn keeping(max_bytes: u64, drivers: &[String]) -> HostConfigLogConfig {
    let has = |name: &str| drivers.iter().any(|it| it == name);
    // `local` keeps any bytes; `json-file` replaces what is no UTF-8. Podman has one of its own, in one file.
    let (driver, files) = if has("local") || drivers.is_empty() {
        ("local", FILES)
    } else if has(PIECES) {
        (PIECES, 1)
    } else {
        ("json-file", FILES)
    };
    let mut options = HashMap::from([("max-size".to_owned(), (max_bytes / files).to_string())]);
    if files > 1 {
        options.insert("max-file".to_owned(), files.to_string());
    }
    if driver == "local" {
        // A log that is small enough to be kept is small enough to be read without unpacking it first.
        options.insert("compress".to_owned(), "false".to_owned());
    }
    HostConfigLogConfig {
        typ: Some(driver.to_owned()),
        config: Some(options),
    }
}

/// The log of a container.
fn log(inner: &Inner, container: &str) -> Log {
    Log {
        engine: inner.engine.clone(),
        container: container.to_owned(),
        pieced: inner.facts.log_drivers.iter().any(|it| it == PIECES),
    }
}

/// [`Platform::get_logs`](grid_platform_api::Platform::get_logs).
pub(crate) async fn tail(inner: &Arc<Inner>, id: &NodeId, lines: usize) -> Result<Vec<String>> {
    let node = inner.node(id).await?;
    tail::last(&log(inner, &node.container), lines, None)
        .await
        .map_err(|fault| unread(fault, id))
}

/// The last lines that a container wrote since a time, for its failure; none where they cannot be read.
pub(crate) async fn last_words(
    inner: &Inner,
    container: &str,
    since: Option<Timestamp>,
    lines: usize,
) -> Vec<String> {
    tail::last(&log(inner, container), lines, since)
        .await
        .unwrap_or_default()
}

/// [`Platform::follow_logs`](grid_platform_api::Platform::follow_logs).
pub(crate) async fn follow(
    inner: &Arc<Inner>,
    id: &NodeId,
    cursor: LogCursor,
) -> Result<LogStream> {
    let node = inner.node(id).await?;
    follow::stream(log(inner, &node.container), &node, cursor).await
}

/// Why a log cannot be read.
fn unread(fault: Fault, id: &NodeId) -> Error {
    match &fault {
        Fault::Refused { status: 404, .. } => Error::not_found(id).with_source(fault),
        fault if is_unreadable(fault) => error(
            ErrorKind::LogsUnavailable,
            format!("the engine cannot read the log of the node `{id}`: {fault}"),
        )
        .with_hint(
            "Its container was not made by this adapter as it is; `grid rm ID` and a new spawn make it anew, and keep its data.",
        ),
        _ => fault.into_error(format!("read the log of the node `{id}`")),
    }
}

/// Whether the container's log driver keeps nothing that can be read.
fn is_unreadable(fault: &Fault) -> bool {
    matches!(fault, Fault::Refused { status, message }
        if *status == 501 || message.contains("does not support reading"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_kept_within_their_budget() {
        let check = |drivers: &[&str], expect: &str, options: &[(&str, &str)]| {
            let drivers: Vec<_> = drivers.iter().map(|it| (*it).to_owned()).collect();
            let kept = keeping(1_000_000, &drivers);
            assert_eq!(kept.typ.as_deref(), Some(expect), "{drivers:?}");
            let options = options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            assert_eq!(kept.config, Some(options), "{drivers:?}");
        };
        let local = [
            ("max-size", "250000"),
            ("max-file", "4"),
            ("compress", "false"),
        ];
        check(&["json-file", "local", "none"], "local", &local);
        check(&[], "local", &local);
        let podman = ["journald", "k8s-file", "none"];
        check(&podman, "k8s-file", &[("max-size", "1000000")]);
        check(
            &["journald", "json-file"],
            "json-file",
            &[("max-size", "250000"), ("max-file", "4")],
        );
    }

    #[test]
    fn a_log_that_cannot_be_read_is_told_from_one_that_is_gone() {
        let id = NodeId::new("n").unwrap();
        let check = |status, message: &str, expect| {
            let message = message.to_owned();
            let error = unread(Fault::Refused { status, message }, &id);
            assert_eq!(error.kind(), expect);
        };
        check(404, "No such container: x", ErrorKind::NotFound);
        let none = "configured logging driver does not support reading";
        check(501, none, ErrorKind::LogsUnavailable);
        check(500, none, ErrorKind::LogsUnavailable);
        check(500, "input/output error", ErrorKind::Unavailable);
    }
}
