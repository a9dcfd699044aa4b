//! Whoever follows a log, and what the log itself holds.

use std::sync::Arc;
use std::time::Duration;

use grid_client::{Class, Client, LogQuery, LogRecord};
use grid_platform_api::{ErrorKind, NodeId};
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::report::Logs;

/// How soon a log that broke off is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// What was read of one incarnation's log.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Which incarnation.
    pub(crate) uid: String,
    /// The logical offset of the first byte in `bytes`.
    from: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Read {
    fn end(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }

    /// What differs between what was read and the log as it lies on the disk; the whole lines of both are compared.
    /// `Ok(false)`: nothing, but not all has been read yet.
    pub(crate) fn compare(&self, log: &[u8]) -> Result<bool, String> {
        let whole = log
            .iter()
            .rposition(|it| *it == b'\n')
            .map_or(0, |it| it + 1);
        let from = usize::try_from(self.from).unwrap_or(usize::MAX);
        let expect = log.get(from..).ok_or("more was read than there is")?;
        let common = expect.len().min(self.bytes.len());
        if let Some(at) = expect.iter().zip(&self.bytes).position(|(a, b)| a != b) {
            let near = |bytes: &[u8]| {
                let cut = &bytes[at.saturating_sub(40)..bytes.len().min(at + 40)];
                String::from_utf8_lossy(cut).escape_debug().to_string()
            };
            return Err(format!(
                "at offset {} the log holds `{}`, and `{}` was read",
                from + at,
                near(expect),
                near(&self.bytes)
            ));
        }
        if self.bytes.len() > expect.len() {
            return Err(format!(
                "{} bytes more were read than there are",
                self.bytes.len() - common
            ));
        }
        Ok(from + self.bytes.len() >= whole)
    }
}

/// What a follower knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) read: Read,
    pub(crate) counts: Logs,
    pub(crate) wrong: Vec<String>,
}

/// Somebody who follows a node's log, over whatever happens to link, master, agent and node.
pub(crate) struct Follower {
    pub(crate) id: NodeId,
    pub(crate) state: Mutex<State>,
}

impl Follower {
    pub(crate) fn new(id: NodeId) -> Self {
        Self {
            id,
            state: Mutex::default(),
        }
    }

    /// Follows for as long as the run goes on.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let mut cursor = "start".to_owned();
        loop {
            match self.read(&client, &mut cursor).await {
                // The incarnation is over, and so is its log: said by the end of the stream, or by the refusal of a
                // position in it.
                Over::Replaced if cursor != "start" => {
                    let mut state = self.state.lock().await;
                    state.counts.replaced += 1;
                    // From its first byte, whichever log that is by now: a node that was started again goes on with its old.
                    state.read = Read::default();
                    "start".clone_into(&mut cursor);
                }
                Over::Replaced => {}
                Over::Broken => self.state.lock().await.counts.reconnected += 1,
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(&self, client: &Client, cursor: &mut String) -> Over {
        let query = LogQuery {
            cursor: Some(cursor.clone()),
            follow: true,
        };
        let over = |error: &grid_client::Error| match error.kind() {
            ErrorKind::InvalidConfig => Over::Replaced,
            _ if error.class() == Class::NotFound => Over::Replaced,
            _ => Over::Broken,
        };
        let mut records = match client.logs(&self.id, &query).await {
            Ok(records) => records,
            Err(error) => return over(&error),
        };
        loop {
            match records.next().await {
                Ok(Some(LogRecord::Error { error })) => return over(&error.into()),
                Ok(Some(record)) => {
                    let mut state = self.state.lock().await;
                    match state.take(&record) {
                        Ok(behind) => *cursor = behind,
                        Err(words) => {
                            state.wrong.push(format!("log of `{}`: {words}", self.id));
                            drop(state);
                            // One finding is enough: what follows would be said of it all again.
                            std::future::pending::<()>().await;
                        }
                    }
                }
                Ok(None) => return Over::Replaced,
                Err(error) => return over(&error),
            }
        }
    }
}

/// Why reading ended.
enum Over {
    /// The log is another one from here on.
    Replaced,
    /// It can be gone on with.
    Broken,
}

impl State {
    /// Takes in a record; the cursor behind it.
    fn take(&mut self, record: &LogRecord) -> Result<String, String> {
        match record {
            LogRecord::Line {
                cursor, partial, ..
            } => {
                let (uid, behind) =
                    position(cursor).ok_or_else(|| format!("the cursor `{cursor}` is none"))?;
                let mut bytes = record.bytes().ok_or("a line has no bytes")?;
                if !partial {
                    bytes.push(b'\n');
                    self.counts.lines += 1;
                }
                if uid != self.read.uid {
                    self.read = Read {
                        uid: uid.to_owned(),
                        ..Read::default()
                    };
                }
                let expect = self.read.end() + bytes.len() as u64;
                if behind != expect {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let what = if behind > expect { "lost" } else { "doubled" };
                    return Err(format!(
                        "lines were {what}: `{text:?}` ends at {behind}, and {expect} was expected"
                    ));
                }
                self.read.bytes.append(&mut bytes);
                Ok(cursor.clone())
            }
            LogRecord::Gap { to, .. } => {
                self.counts.gaps += 1;
                let (uid, from) = position(&format!("after:{to}"))
                    .map(|(uid, at)| (uid.to_owned(), at))
                    .ok_or_else(|| format!("the position `{to}` is none"))?;
                self.read = Read {
                    uid,
                    from,
                    bytes: Vec::new(),
                };
                Ok(format!("after:{to}"))
            }
            LogRecord::Error { .. } => Err("an error is no line".to_owned()),
        }
    }
}

/// The incarnation and the offset of a cursor.
fn position(cursor: &str) -> Option<(&str, u64)> {
    let (uid, offset) = cursor.strip_prefix("after:")?.rsplit_once(':')?;
    Some((uid, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(cursor: &str, text: &str, partial: bool) -> LogRecord {
        LogRecord::Line {
            cursor: cursor.to_owned(),
            at: None,
            source: "combined".to_owned(),
            text: Some(text.to_owned()),
            base64: None,
            partial,
        }
    }

    #[test]
    fn lines_that_are_lost_or_doubled_are_found() {
        let read = |records: &[LogRecord]| {
            let mut state = State::default();
            records
                .iter()
                .try_for_each(|it| state.take(it).map(drop))
                .map(|()| state.read)
        };
        let (one, two) = (
            line("after:u:4", "one", false),
            line("after:u:8", "two", false),
        );
        assert_eq!(
            read(&[one.clone(), two.clone()]).unwrap().bytes,
            b"one\ntwo\n"
        );
        assert!(
            read(std::slice::from_ref(&two))
                .unwrap_err()
                .contains("lost")
        );
        assert!(
            read(&[one.clone(), one.clone()])
                .unwrap_err()
                .contains("doubled")
        );
        let gap = LogRecord::Gap {
            from: "u:4".into(),
            to: "u:9".into(),
            reason: "retention".into(),
        };
        let behind = line("after:u:12", "ab", false);
        assert_eq!(read(&[one.clone(), gap, behind]).unwrap().from, 9);
        let parts = [line("after:u:2", "on", true), line("after:u:4", "e", false)];
        assert_eq!(read(&parts).unwrap().bytes, b"one\n");
        let other = line("after:v:4", "one", false);
        assert_eq!(read(&[one, two, other]).unwrap().uid, "v");
    }

    #[test]
    fn what_was_read_is_compared_with_the_log() {
        let check = |from: u64, bytes: &str, log: &str, expect: Result<bool, ()>| {
            let read = Read {
                from,
                bytes: bytes.into(),
                ..Read::default()
            };
            assert_eq!(
                read.compare(log.as_bytes()).map_err(drop),
                expect,
                "{from} {bytes:?} {log:?}"
            );
        };
        check(0, "a\n", "a\n", Ok(true));
        check(0, "a\n", "a\nb", Ok(true));
        check(0, "a\n", "a\nb\n", Ok(false));
        check(2, "b\n", "a\nb\n", Ok(true));
        check(0, "a\nc\n", "a\nb\n", Err(()));
        check(0, "a\nb\n", "a\n", Err(()));
        check(9, "", "a\n", Err(()));
    }
}
