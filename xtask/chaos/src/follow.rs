//! Whoever follows a log, and what the log itself holds.

use std::sync::Arc;
use std::time::Duration;

use grid_client::{Class, Client, LogQuery, LogRecord};
use grid_platform_api::{ErrorKind, NodeId};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::opaque;
use crate::platform::{Ground, Positions};
use crate::report::Logs;

/// How soon a log that broke off is asked for again.
const PAUSE: Duration = Duration::from_millis(100);
/// How much is kept of what was read, where that is compared from its end on: far more than is kept of a log.
const READ_KEPT: usize = 4 << 20;

/// How long bytes that were given up may still lie in the file: a platform makes it durable first that they are, and
/// gives them back then.
const GIVEN_BACK: Duration = Duration::from_secs(2);

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

    /// What differs between what was read and the log as it lies on the disk, as far as it is kept. `Ok(None)`: nothing,
    /// but not all up to `goal` has been read yet; otherwise how many bytes are the same.
    pub(crate) fn compare(&self, log: &[u8], goal: &Goal) -> Result<Option<u64>, String> {
        let goal = match goal {
            Goal::Offset(goal) => *goal,
            Goal::Line(line) => return Ok(opaque::compare(&self.bytes, log, line)),
        };
        let from = usize::try_from(self.from).unwrap_or(usize::MAX);
        let expect = log.get(from..).ok_or("more was read than there is")?;
        let common = expect.len().min(self.bytes.len());
        let dropped = kept_from(log).saturating_sub(from);
        let pairs = expect.iter().zip(&self.bytes).skip(dropped);
        if let Some(at) = pairs.clone().position(|(a, b)| a != b) {
            let at = at + dropped;
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
        let all = from + self.bytes.len() >= goal;
        Ok(all.then(|| pairs.len() as u64))
    }
}

/// Up to where a log is to be read.
#[derive(Debug)]
pub(crate) enum Goal {
    /// To this offset.
    Offset(usize),
    /// To the last line that reads so.
    Line(Vec<u8>),
}

impl Goal {
    /// All whole lines that there are now.
    pub(crate) fn of(log: &[u8], positions: Positions) -> Self {
        match positions {
            Positions::Offsets => Self::Offset(whole_lines(log)),
            Positions::Opaque => Self::Line(opaque::last_line(log).to_vec()),
        }
    }
}

/// Where the last whole line of a log ends.
pub(crate) fn whole_lines(log: &[u8]) -> usize {
    let end = log.iter().rposition(|it| *it == b'\n');
    end.map_or(0, |it| it + 1)
}

/// Where what is kept of a log begins: what was dropped of it reads as zeros, which no program here writes.
pub(crate) fn kept_from(log: &[u8]) -> usize {
    log.iter().position(|it| *it != 0).unwrap_or(log.len())
}

/// Where the first whole line at or behind that begins.
fn first_line(log: &[u8]) -> usize {
    let from = kept_from(log);
    let end = log[from..].iter().position(|it| *it == b'\n');
    end.map_or(log.len(), |it| from + it + 1)
}

/// The count of a program's boot that a line has.
fn counted(line: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix("count ")?;
    let (boot, number) = text.trim_end().split_once(' ')?;
    Some((boot.parse().ok()?, number.parse().ok()?))
}

/// What a follower knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) read: Read,
    /// The last line that was counted, if what followed it was read without a break.
    counted: Option<(u64, u64)>,
    /// The incarnation whose log was said to be over, and how.
    ended: (String, String),
    /// An incarnation of which nothing was read before that, by a gap that was told or from the start.
    begun: Option<(String, Beginning)>,
    positions: Positions,
    /// The last position, where positions are opaque.
    last: String,
    /// What keeps logs may have lost lines.
    pub(crate) excused: bool,
    pub(crate) counts: Logs,
    pub(crate) wrong: Vec<String>,
}

/// Where what was read begins.
#[derive(Debug)]
enum Beginning {
    /// At this offset.
    At(u64),
    /// With this line.
    With(Vec<u8>),
}

/// Somebody who follows a node's log, over whatever happens to link, master, agent and node.
pub(crate) struct Follower {
    pub(crate) id: NodeId,
    ground: Arc<dyn Ground>,
    pub(crate) state: Mutex<State>,
}

impl Follower {
    pub(crate) fn new(id: NodeId, ground: Arc<dyn Ground>) -> Self {
        Self {
            id,
            state: Mutex::new(State {
                positions: ground.positions(),
                ..State::default()
            }),
            ground,
        }
    }

    /// Follows for as long as the run goes on.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let mut cursor = "start".to_owned();
        loop {
            match self.read(&client, &mut cursor).await {
                // The incarnation is over, and so is its log: said by the end of the stream, or by the refusal of a
                // position in it.
                Over::Replaced(how) if cursor != "start" => {
                    let mut state = self.state.lock().await;
                    state.counts.replaced += 1;
                    // From the first byte of another.
                    state.ended = (std::mem::take(&mut state.read).uid, how);
                    state.counted = None;
                    "start".clone_into(&mut cursor);
                }
                Over::Replaced(_) => {}
                Over::Broken => self.state.lock().await.counts.reconnected += 1,
            }
            sleep(PAUSE).await;
        }
    }

    /// What was left out must be gone: looked at now, as more of the log goes with time.
    async fn look_at_beginning(&self, state: &mut State) -> Result<(), String> {
        let Some((uid, begin)) = state.begun.take() else {
            return Ok(());
        };
        let until = Instant::now() + GIVEN_BACK;
        loop {
            match self.still_there(&uid, &begin) {
                // Its node went meanwhile, and the log with it.
                None => return Ok(()),
                Some(Ok(())) => {
                    state.counts.beginnings += 1;
                    return Ok(());
                }
                Some(Err(words)) if Instant::now() >= until => return Err(words),
                Some(Err(_)) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// What of that incarnation's log is there though it was left out; `None` when the log is gone.
    fn still_there(&self, uid: &str, begin: &Beginning) -> Option<Result<(), String>> {
        let is_its = || {
            let records = self.ground.records();
            records.is_ok_and(|it| it.nodes.get(self.id.as_str()).is_some_and(|it| it == uid))
        };
        let log = is_its().then(|| self.ground.log(&self.id))?.ok()?;
        if !is_its() {
            return None;
        }
        let wrong = match begin {
            Beginning::At(to) => {
                let first = first_line(&log) as u64;
                (*to > first).then(|| {
                    format!("it is told from {to} on, and the lines from {first} on are there")
                })
            }
            Beginning::With(line) => opaque::before(&log, line).map(|left_out| {
                format!(
                    "it is told from `{}` on, and `{}` before it is there",
                    String::from_utf8_lossy(line).escape_debug(),
                    String::from_utf8_lossy(left_out).escape_debug()
                )
            }),
        };
        Some(wrong.map_or(Ok(()), Err))
    }

    async fn read(&self, client: &Client, cursor: &mut String) -> Over {
        let query = LogQuery {
            cursor: Some(cursor.clone()),
            follow: true,
        };
        let over = |error: &grid_client::Error| match error.kind() {
            ErrorKind::InvalidConfig => Over::Replaced(error.to_string()),
            _ if error.class() == Class::NotFound => Over::Replaced(error.to_string()),
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
                    state.excused = self.ground.loses_lines();
                    let taken = match state.take(&record) {
                        Ok(behind) => self.look_at_beginning(&mut state).await.map(|()| behind),
                        Err(words) => Err(words),
                    };
                    match taken {
                        Ok(behind) => *cursor = behind,
                        Err(words) => {
                            state.wrong.push(format!("log of `{}`: {words}", self.id));
                            drop(state);
                            // One finding is enough: what follows would be said of it all again.
                            std::future::pending::<()>().await;
                        }
                    }
                }
                Ok(None) => return Over::Replaced("its stream ended".to_owned()),
                Err(error) => return over(&error),
            }
        }
    }
}

/// Why reading ended.
enum Over {
    /// The log is another one from here on: who says so.
    Replaced(String),
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
                let (uid, behind) = self
                    .position(cursor)
                    .ok_or_else(|| format!("the cursor `{cursor}` is none"))?;
                let mut bytes = record.bytes().ok_or("a line has no bytes")?;
                if !partial {
                    bytes.push(b'\n');
                    self.counts.lines += 1;
                }
                if uid == self.ended.0 {
                    let how = &self.ended.1;
                    return Err(format!("it was said to be over, and goes on: {how}"));
                }
                let is_new = uid != self.read.uid;
                if is_new {
                    self.read = Read {
                        uid: uid.to_owned(),
                        ..Read::default()
                    };
                    self.counted = None;
                }
                match behind {
                    Some(behind) => self.check_offset(behind, &bytes, is_new)?,
                    None if self.read.bytes.is_empty() && !partial => {
                        let begin = Beginning::With(bytes.clone());
                        self.begun = Some((self.read.uid.clone(), begin));
                    }
                    None => {}
                }
                self.last = strip(cursor).unwrap_or_default().to_owned();
                let now = counted(&bytes);
                if let (Some((boot, number)), Some((same, last))) = (now, self.counted)
                    && boot == same
                {
                    if number == last + 1 {
                        self.counts.in_order += 1;
                    } else if number > last && self.excused {
                        self.counts.never_kept += number - last - 1;
                    } else {
                        return Err(format!("count {boot} {number} follows {boot} {last}"));
                    }
                }
                self.counted = now.or(self.counted);
                self.read.bytes.append(&mut bytes);
                if behind.is_none() && self.read.bytes.len() > READ_KEPT {
                    self.read.bytes.drain(..READ_KEPT / 2);
                }
                Ok(cursor.clone())
            }
            LogRecord::Gap { from, to, .. } if self.positions == Positions::Opaque => {
                let uid =
                    opaque::uid_of(to).ok_or_else(|| format!("the position `{to}` is none"))?;
                if *from != self.last || uid != self.read.uid {
                    return Err(format!(
                        "a gap from `{from}` to `{to}` follows `{}`",
                        self.last
                    ));
                }
                self.counts.gaps += 1;
                self.counted = None;
                self.read.bytes.clear();
                to.clone_into(&mut self.last);
                Ok(format!("after:{to}"))
            }
            LogRecord::Gap { from, to, .. } => {
                let place = |text: &str| {
                    text.rsplit_once(':')
                        .and_then(|(uid, at)| Some((uid.to_owned(), at.parse::<u64>().ok()?)))
                        .ok_or_else(|| format!("the position `{text}` is none"))
                };
                let (begin, (uid, end)) = (place(from)?, place(to)?);
                let read = (self.read.uid.clone(), self.read.end());
                if begin != read || uid != read.0 || end <= read.1 {
                    return Err(format!("a gap from `{from}` to `{to}` follows {read:?}"));
                }
                self.counts.gaps += 1;
                self.begun = Some((uid.clone(), Beginning::At(end)));
                self.counted = None;
                self.read = Read {
                    uid,
                    from: end,
                    bytes: Vec::new(),
                };
                Ok(format!("after:{to}"))
            }
            LogRecord::Error { .. } => Err("an error is no line".to_owned()),
        }
    }

    /// The incarnation of a cursor, and its offset where positions say it.
    fn position<'a>(&self, cursor: &'a str) -> Option<(&'a str, Option<u64>)> {
        let position = strip(cursor)?;
        match self.positions {
            Positions::Offsets => {
                let (uid, offset) = position.rsplit_once(':')?;
                Some((uid, Some(offset.parse().ok()?)))
            }
            Positions::Opaque => Some((opaque::uid_of(position)?, None)),
        }
    }

    /// A line that ends behind this offset has to follow what was read.
    fn check_offset(&mut self, behind: u64, bytes: &[u8], is_new: bool) -> Result<(), String> {
        if is_new {
            // Who begins with the oldest begins where the log does by then.
            let begin = behind.saturating_sub(bytes.len() as u64);
            if begin > 0 {
                self.read.from = begin;
                self.begun = Some((self.read.uid.clone(), Beginning::At(begin)));
            }
        }
        let expect = self.read.end() + bytes.len() as u64;
        if behind == expect {
            return Ok(());
        }
        let text = String::from_utf8_lossy(bytes).into_owned();
        let what = if behind > expect { "lost" } else { "doubled" };
        Err(format!(
            "lines were {what}: `{text:?}` ends at {behind}, and {expect} was expected"
        ))
    }
}

fn strip(cursor: &str) -> Option<&str> {
    cursor.strip_prefix("after:")
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
        assert_eq!(read(std::slice::from_ref(&two)).unwrap().from, 4);
        let three = line("after:u:14", "three", false);
        let lost = read(&[one.clone(), three]).unwrap_err();
        assert!(lost.contains("lost"), "{lost}");
        assert!(
            read(&[one.clone(), one.clone()])
                .unwrap_err()
                .contains("doubled")
        );
        let gap = |from: &str, to: &str| LogRecord::Gap {
            from: from.into(),
            to: to.into(),
            reason: "retention".into(),
        };
        let behind = line("after:u:12", "ab", false);
        let told = [one.clone(), gap("u:4", "u:9"), behind];
        assert_eq!(read(&told).unwrap().from, 9);
        for (from, to) in [
            ("u:3", "u:9"),
            ("u:5", "u:9"),
            ("u:4", "u:4"),
            ("v:4", "v:9"),
        ] {
            let error = read(&[one.clone(), gap(from, to)]).unwrap_err();
            assert!(error.contains("a gap from"), "{error}");
        }
        let parts = [line("after:u:2", "on", true), line("after:u:4", "e", false)];
        assert_eq!(read(&parts).unwrap().bytes, b"one\n");
        let other = line("after:v:4", "one", false);
        assert_eq!(read(&[one, two, other]).unwrap().uid, "v");
        let counts = |second: &str| {
            let first = line("after:u:10", "count 2 7", false);
            let end = 11 + second.len();
            read(&[first, line(&format!("after:u:{end}"), second, false)]).map(drop)
        };
        counts("count 2 8").unwrap();
        counts("count 3 1").unwrap();
        assert!(counts("count 2 9").unwrap_err().contains("follows 2 7"));
        assert!(counts("count 2 7").unwrap_err().contains("follows 2 7"));
    }

    #[test]
    fn a_log_that_was_said_to_be_over_does_not_go_on() {
        let mut state = State {
            ended: ("u".to_owned(), "words".to_owned()),
            ..State::default()
        };
        state.take(&line("after:v:4", "one", false)).unwrap();
        let error = state.take(&line("after:u:4", "one", false)).unwrap_err();
        assert!(error.contains("said to be over"), "{error}");
    }

    #[test]
    fn positions_may_say_nothing_but_whose_they_are() {
        let read = |records: &[LogRecord], excused: bool| {
            let mut state = State {
                positions: Positions::Opaque,
                excused,
                ..State::default()
            };
            let taken = records.iter().try_for_each(|it| state.take(it).map(drop));
            taken.map(|()| state)
        };
        let (one, two) = (
            line("after:u:x:1", "count 1 1", false),
            line("after:u:x:2", "count 1 2", false),
        );
        let state = read(&[one.clone(), two.clone()], false).unwrap();
        assert_eq!(state.read.bytes, b"count 1 1\ncount 1 2\n");
        assert!(matches!(&state.begun, Some((uid, Beginning::With(_))) if uid == "u"));
        assert!(read(&[two.clone(), one.clone()], true).is_err());
        assert!(read(&[one.clone(), one.clone()], true).is_err());
        let three = line("after:u:x:3", "count 1 3", false);
        assert!(read(&[one.clone(), three.clone()], false).is_err());
        let state = read(&[one.clone(), three.clone()], true).unwrap();
        assert_eq!(state.counts.never_kept, 1);
        let gap = |from: &str| LogRecord::Gap {
            from: from.into(),
            to: "u:x:3:0".into(),
            reason: "rotation".into(),
        };
        let state = read(&[one.clone(), gap("u:x:1"), three], false).unwrap();
        assert_eq!(
            (state.read.bytes, state.counts.gaps),
            (b"count 1 3\n".to_vec(), 1)
        );
        assert!(read(&[one, gap("u:x:0")], false).is_err());
        assert!(read(&[gap("u:x:1")], false).is_err());
    }

    #[test]
    fn what_is_kept_of_a_log_begins_behind_its_zeros() {
        let check = |log: &[u8], kept: usize, line: usize| {
            assert_eq!((kept_from(log), first_line(log)), (kept, line), "{log:?}");
        };
        check(b"", 0, 0);
        check(b"a\nb\n", 0, 2);
        check(b"\0\0a\nb\n", 2, 4);
        check(b"\0\0ab", 2, 4);
        check(b"\0\0", 2, 2);
    }

    #[test]
    fn what_was_read_is_compared_with_the_log() {
        let check = |from: u64, bytes: &str, log: &str, expect: Result<Option<u64>, ()>| {
            let read = Read {
                from,
                bytes: bytes.into(),
                ..Read::default()
            };
            assert_eq!(
                read.compare(
                    log.as_bytes(),
                    &Goal::of(log.as_bytes(), Positions::Offsets)
                )
                .map_err(drop),
                expect,
                "{from} {bytes:?} {log:?}"
            );
        };
        check(0, "a\n", "a\n", Ok(Some(2)));
        check(0, "a\n", "a\nb", Ok(Some(2)));
        check(0, "a\n", "a\nb\n", Ok(None));
        check(2, "b\n", "a\nb\n", Ok(Some(2)));
        check(0, "a\nb\n", "\0\0b\n", Ok(Some(2)));
        check(2, "b\n", "\0\0\0\nc\n", Ok(None));
        check(0, "a\nc\n", "\0\0b\n", Err(()));
        check(0, "a\nc\n", "a\nb\n", Err(()));
        check(0, "a\nb\n", "a\n", Err(()));
        check(9, "", "a\n", Err(()));
    }
}
