//! Pure: what the engine sends as the entries of a log.
//!
//! The engine keeps a log as entries: a time, an output, and bytes. A line of up to 16 KiB is one entry that ends with a line
//! feed; a longer one is several of the same time, all of them full but the last one, which ends so (Docker 20.10's driver `local`
//! forgets it). What a program wrote last without a line feed has none either. Podman keeps what it read at once, up to 8 KiB, with the
//! time of each, in seconds; only what ends a line ends with a line feed.

use bollard::container::LogOutput;
use bytes::Bytes;
use grid_platform_api::{LogSource, Timestamp};

use crate::error::Fault;

/// The longest entry of Docker's (`defaultBufSize` of its copier), in bytes.
const ENTRY: usize = 16 * 1024;

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// When it was written, by the engine's clock; it may go backwards.
    pub(super) at: Timestamp,
    pub(super) source: LogSource,
    /// The bytes without the line's end.
    pub(super) bytes: Bytes,
    /// It ends its line.
    pub(super) ended: bool,
    /// What goes on with its line may have another time.
    pub(super) pieced: bool,
}

/// Takes one message of the engine apart: one entry, or several where there is a terminal, whose log has no frames.
///
/// # Errors
/// What the engine says instead of a log, and what is neither.
pub(super) fn entries(
    output: LogOutput,
    pieced: bool,
    mut out: impl FnMut(Entry),
) -> Result<(), Fault> {
    match output {
        LogOutput::StdOut { message } => out(entry(message, LogSource::Stdout, pieced)?),
        LogOutput::StdErr { message } => out(entry(message, LogSource::Stderr, pieced)?),
        LogOutput::Console { message } => {
            // A frame of the engine's own words, which the client takes for a terminal's.
            if let [3, 0, 0, 0, _, _, _, _, words @ ..] = &message[..] {
                return Err(Fault::Strange(
                    String::from_utf8_lossy(words).trim().to_owned(),
                ));
            }
            let mut rest = Some(message);
            while let Some(message) = rest.take() {
                let mut first = entry(message, LogSource::Combined, pieced)?;
                rest = (!pieced).then(|| second(&mut first)).flatten();
                out(first);
            }
        }
        LogOutput::StdIn { .. } => return Err(Fault::Strange("a log of an input".to_owned())),
    }
    Ok(())
}

fn entry(message: Bytes, source: LogSource, pieced: bool) -> Result<Entry, Fault> {
    let strange = || Fault::Strange("an entry of the log has no time".to_owned());
    // The longest time is `2026-01-02T03:04:05.123456789+00:00`.
    let near = message.get(..message.len().min(40)).unwrap_or_default();
    let space = near.iter().position(|it| *it == b' ').ok_or_else(strange)?;
    let time = std::str::from_utf8(near.get(..space).unwrap_or_default()).ok();
    let at = time.and_then(|it| it.parse().ok()).ok_or_else(strange)?;
    let mut bytes = message.slice(space + 1..);
    let ended = !pieced && bytes.len() < ENTRY || bytes.last() == Some(&b'\n');
    if bytes.last() == Some(&b'\n') {
        bytes.truncate(bytes.len() - 1);
        if source == LogSource::Combined && bytes.last() == Some(&b'\r') {
            // A terminal ends its lines so, whatever the program wrote.
            bytes.truncate(bytes.len() - 1);
        }
    }
    Ok(Entry {
        at,
        source,
        bytes,
        ended,
        pieced,
    })
}

/// The next part of a terminal's line, which follows the first one with a time of its own in the middle of the text.
fn second(first: &mut Entry) -> Option<Bytes> {
    if first.bytes.len() <= ENTRY {
        return None;
    }
    let rest = first.bytes.slice(ENTRY..);
    let next = entry(rest.clone(), LogSource::Combined, false).ok()?;
    if next.at != first.at {
        return None;
    }
    let mut whole = bytes::BytesMut::from(&rest[..]);
    if first.ended {
        whole.extend_from_slice(b"\n");
    }
    first.bytes.truncate(ENTRY);
    first.ended = false;
    Some(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000006Z";

    fn take(output: LogOutput) -> Result<Vec<(LogSource, String, bool)>, String> {
        let mut got = Vec::new();
        entries(output, false, |it| {
            assert_eq!(it.at, TIME.parse::<Timestamp>().unwrap());
            let text = String::from_utf8_lossy(&it.bytes).into_owned();
            got.push((it.source, text, it.ended));
        })
        .map(|()| got)
        .map_err(|fault| fault.to_string())
    }

    #[test]
    fn outputs_are_told_apart() {
        let message = |text: &str| Bytes::from(format!("{TIME} {text}"));
        let check = |output, source, text: &str, ended| {
            assert_eq!(take(output).unwrap(), [(source, text.to_owned(), ended)]);
        };
        let out = |text: &str| LogOutput::StdOut {
            message: message(text),
        };
        check(out("a b\n"), LogSource::Stdout, "a b", true);
        check(out("\n"), LogSource::Stdout, "", true);
        check(out("a\r\n"), LogSource::Stdout, "a\r", true);
        check(out("end"), LogSource::Stdout, "end", true);
        check(out(""), LogSource::Stdout, "", true);
        let full = "x".repeat(ENTRY);
        check(out(&full), LogSource::Stdout, &full, false);
        check(out(&format!("{full}\n")), LogSource::Stdout, &full, true);
        let err = LogOutput::StdErr {
            message: message("e\n"),
        };
        check(err, LogSource::Stderr, "e", true);
        let tty = LogOutput::Console {
            message: message("a\r\n"),
        };
        check(tty, LogSource::Combined, "a", true);
    }

    #[test]
    fn times_of_a_second_and_of_another_zone_are_read() {
        for time in ["2026-01-02T03:04:05Z", "2026-01-02T05:04:05+02:00"] {
            let message = Bytes::from(format!("{time} x\n"));
            let mut at = None;
            entries(LogOutput::StdOut { message }, false, |it| at = Some(it.at)).unwrap();
            assert_eq!(at, "2026-01-02T03:04:05Z".parse().ok());
        }
    }

    #[test]
    fn pieces_end_a_line_with_its_end_alone() {
        let ended = |text: &str| {
            let message = Bytes::from(format!("{TIME} {text}"));
            let mut ended = None;
            let output = LogOutput::StdOut { message };
            entries(output, true, |it| ended = Some(it.ended)).unwrap();
            ended.unwrap()
        };
        assert!(!ended("some"));
        assert!(ended("some\n"));
        assert!(ended("\n"));
    }

    #[test]
    fn a_long_line_of_a_terminal_comes_apart_again() {
        let long = "x".repeat(ENTRY);
        let text = format!("{TIME} {long}{TIME} {long}{TIME} end\r\n");
        let got = take(LogOutput::Console {
            message: text.into(),
        });
        let part = |text: &str, ended| (LogSource::Combined, text.to_owned(), ended);
        assert_eq!(
            got.unwrap(),
            [part(&long, false), part(&long, false), part("end", true)]
        );
        // Without a time there it is what the program wrote.
        let text = format!("{TIME} {long}more\r\n");
        let got = take(LogOutput::Console {
            message: text.into(),
        });
        assert_eq!(got.unwrap(), [part(&format!("{long}more"), true)]);
    }

    #[test]
    fn what_is_no_log_is_said() {
        let check = |message: &'static [u8], expect: &str| {
            let message = Bytes::from_static(message);
            assert_eq!(take(LogOutput::Console { message }).unwrap_err(), expect);
        };
        check(
            b"\x03\0\0\0\0\0\0\x13Error grabbing logs\n",
            "Error grabbing logs",
        );
        check(b"no time at all\n", "an entry of the log has no time");
        check(b"2026-01-02T03:04:05Z", "an entry of the log has no time");
        check(b"\xff\xfe \n", "an entry of the log has no time");
    }
}
