//! What goes to stdout, and the notes that go to stderr.

use std::io::{ErrorKind, IsTerminal, Write};

use grid_platform_api::ErrorReport;
use serde::Serialize;

use crate::{
    args::Format,
    error::{Error, Result},
};

/// Writes to stdout.
pub(crate) fn out(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Writes bytes to stdout as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Error::unheard(),
            _ => Error::failed("cannot write to stdout").with_source(&error),
        })
}

/// Writes a value: as a table by `text`, or as JSON.
pub(crate) fn show<T: Serialize + ?Sized>(
    format: Format,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<()> {
    match format {
        Format::Table => out(&text(value)),
        Format::Json => json(value),
    }
}

/// Writes a list: as a table by `text`, or as JSON. That it is empty is told to people, not to pipes.
pub(crate) fn list<T: Serialize>(
    format: Format,
    items: &[T],
    empty: &str,
    text: impl FnOnce(&[T]) -> String,
) -> Result<()> {
    if format == Format::Table && items.is_empty() {
        note(empty);
        return Ok(());
    }
    show(format, items, text)
}

/// Writes a value as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::failed("cannot write the answer as JSON").with_source(&error))?;
    text.push('\n');
    out(&text)
}

/// Writes a piece of a stream as a line of JSON: a stream has no end that could close a list.
pub(crate) fn json_line<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::failed("cannot write the answer as JSON").with_source(&error))?;
    out(&format!("{text}\n"))
}

/// Writes a remark to stderr. Nobody reading it is no fault.
pub(crate) fn note(text: &str) {
    writeln!(anstream::stderr(), "{text}").ok();
}

/// Writes an error to stderr, in colour on a terminal.
pub(crate) fn report(report: &ErrorReport) {
    const RED: &str = "\x1b[1;31m";
    const CYAN: &str = "\x1b[1;36m";
    const PLAIN: &str = "\x1b[0m";
    let mut text = String::new();
    for line in report.to_string().lines() {
        let painted =
            ["error:", "hint:"]
                .into_iter()
                .zip([RED, CYAN])
                .find_map(|(word, colour)| {
                    let rest = line.strip_prefix(word)?;
                    Some(format!("{colour}{word}{PLAIN}{rest}\n"))
                });
        text.push_str(&painted.unwrap_or_else(|| format!("{line}\n")));
    }
    write!(anstream::stderr(), "{text}").ok();
}

/// Whether somebody watches.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}
