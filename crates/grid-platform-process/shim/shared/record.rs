//! The record: what the shim last knew of its node, in two slots of which a torn write can spoil only one.

/// The size of one slot, in bytes.
pub(crate) const SLOT: usize = 4096;
/// The size of the record file, in bytes.
pub(crate) const FILE: usize = 2 * SLOT;

const MAGIC: &[u8; 8] = b"SGRECRD1";
const HEADER: usize = 24;
const VERSION: &str = "1";

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// About to be executed.
    #[default]
    Starting,
    /// Executed, and not ended.
    Running,
    /// Ended; to be started again at `next_start_ms`.
    Backoff,
    /// Asked to stop.
    Stopping,
    /// Final: stopped because it was asked to.
    Stopped,
    /// Final: ended by itself.
    Exited,
    /// Final: could not be started.
    Failed,
}

impl State {
    const ALL: [State; 7] = [
        State::Starting,
        State::Running,
        State::Backoff,
        State::Stopping,
        State::Stopped,
        State::Exited,
        State::Failed,
    ];

    /// The state's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Backoff => "backoff",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Exited => "exited",
            State::Failed => "failed",
        }
    }

    /// Whether the shim that wrote this has ended.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, State::Stopped | State::Exited | State::Failed)
    }
}

/// One record. `PROTOCOL.md` says what each key means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The boot in which it was written.
    pub(crate) boot_id: String,
    /// The node's uid.
    pub(crate) uid: String,
    /// The generation of the start.
    pub(crate) generation: u64,
    /// The writer.
    pub(crate) shim_pid: u32,
    /// The writer's start time.
    pub(crate) shim_start: u64,
    /// The main process; 0 when there is none.
    pub(crate) pid: u32,
    /// The main process's start time; 0 when there is none.
    pub(crate) pid_start: u64,
    /// Where the node is.
    pub(crate) state: State,
    /// Starts after the first.
    pub(crate) restarts: u64,
    /// When the last run was executed, unix ms; 0: never.
    pub(crate) started_ms: u64,
    /// When the last run ended, unix ms; 0: it has not.
    pub(crate) finished_ms: u64,
    /// The last run's exit code.
    pub(crate) exit_code: Option<i32>,
    /// The signal that ended the last run.
    pub(crate) signal: Option<i32>,
    /// Whether the OOM killer ended it.
    pub(crate) oom: bool,
    /// Where the last start failed (a `words::Stage`).
    pub(crate) fail_stage: Option<String>,
    /// Why the last start failed.
    pub(crate) fail_errno: Option<i32>,
    /// When the next start is due, unix ms; 0: none is.
    pub(crate) next_start_ms: u64,
    /// Logical offset of the first kept byte of the log.
    pub(crate) log_low: u64,
    /// Logical offset of byte 0 of the log file.
    pub(crate) log_base: u64,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Grows by one with each write.
    pub(crate) seq: u64,
    /// The record.
    pub(crate) record: Record,
}

impl Record {
    /// The slot for `seq`, and its offset in the file. `None` when the text does not fit, which no uid of sane length makes.
    pub(crate) fn encode(&self, seq: u64) -> Option<(u64, [u8; SLOT])> {
        let text = self.text();
        let body = text.as_bytes();
        let mut slot = [0; SLOT];
        slot.get_mut(HEADER..HEADER + body.len())?
            .copy_from_slice(body);
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&seq.to_le_bytes());
        slot[16..20].copy_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
        let crc = crc32(&[&slot[8..20], body]);
        slot[20..24].copy_from_slice(&crc.to_le_bytes());
        Some(((seq % 2) * SLOT as u64, slot))
    }

    fn text(&self) -> String {
        let mut out = format!("version={VERSION}\n");
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            out.push_str(key);
            out.push('=');
            // A line feed in a value would make a line of its own.
            out.extend(value.to_string().chars().filter(|it| *it != '\n'));
            out.push('\n');
        };
        line("boot_id", &self.boot_id);
        line("uid", &self.uid);
        line("generation", &self.generation);
        line("shim_pid", &self.shim_pid);
        line("shim_start", &self.shim_start);
        line("pid", &self.pid);
        line("pid_start", &self.pid_start);
        line("state", &self.state.as_str());
        line("restarts", &self.restarts);
        line("started_ms", &self.started_ms);
        line("finished_ms", &self.finished_ms);
        if let Some(it) = self.exit_code {
            line("exit_code", &it);
        }
        if let Some(it) = self.signal {
            line("signal", &it);
        }
        line("oom", &u8::from(self.oom));
        if let Some(it) = &self.fail_stage {
            line("fail_stage", it);
        }
        if let Some(it) = self.fail_errno {
            line("fail_errno", &it);
        }
        line("next_start_ms", &self.next_start_ms);
        line("log_low", &self.log_low);
        line("log_base", &self.log_base);
        out
    }

    fn parse(text: &str) -> Option<Record> {
        let mut record = Record::default();
        let mut known = false;
        let mut stated = false;
        // Not `lines()`, which takes a carriage return at a value's end for a part of the line's.
        for line in text.split_terminator('\n') {
            let (key, value) = line.split_once('=')?;
            match key {
                "version" => known = value == VERSION,
                "boot_id" => value.clone_into(&mut record.boot_id),
                "uid" => value.clone_into(&mut record.uid),
                "generation" => record.generation = value.parse().ok()?,
                "shim_pid" => record.shim_pid = value.parse().ok()?,
                "shim_start" => record.shim_start = value.parse().ok()?,
                "pid" => record.pid = value.parse().ok()?,
                "pid_start" => record.pid_start = value.parse().ok()?,
                "state" => {
                    record.state = State::ALL.into_iter().find(|it| it.as_str() == value)?;
                    stated = true;
                }
                "restarts" => record.restarts = value.parse().ok()?,
                "started_ms" => record.started_ms = value.parse().ok()?,
                "finished_ms" => record.finished_ms = value.parse().ok()?,
                "exit_code" => record.exit_code = Some(value.parse().ok()?),
                "signal" => record.signal = Some(value.parse().ok()?),
                "oom" => record.oom = value == "1",
                "fail_stage" => record.fail_stage = Some(value.to_owned()),
                "fail_errno" => record.fail_errno = Some(value.parse().ok()?),
                "next_start_ms" => record.next_start_ms = value.parse().ok()?,
                "log_low" => record.log_low = value.parse().ok()?,
                "log_base" => record.log_base = value.parse().ok()?,
                // A later shim may say more.
                _ => {}
            }
        }
        (known && stated).then_some(record)
    }
}

/// The newer of the valid slots in a record file's bytes.
pub(crate) fn read(file: &[u8]) -> Option<Stored> {
    file.chunks_exact(SLOT)
        .take(2)
        .filter_map(read_slot)
        .max_by_key(|it| it.seq)
}

fn read_slot(slot: &[u8]) -> Option<Stored> {
    let seq = u64::from_le_bytes(slot.get(8..16)?.try_into().ok()?);
    let len = u32::from_le_bytes(slot.get(16..20)?.try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(slot.get(20..24)?.try_into().ok()?);
    let body = slot.get(HEADER..HEADER.checked_add(len)?)?;
    if slot.get(..8)? != MAGIC || crc != crc32(&[slot.get(8..20)?, body]) {
        return None;
    }
    Some(Stored {
        seq,
        record: Record::parse(std::str::from_utf8(body).ok()?)?,
    })
}

/// CRC-32 as in IEEE 802.3, bit by bit: a table would be a private page in every shim.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::{FILE, Record, SLOT, State, Stored, crc32, read};

    fn full() -> Record {
        Record {
            boot_id: "a-b-c".to_owned(),
            uid: "u-1".to_owned(),
            generation: 9,
            shim_pid: 10,
            shim_start: 11,
            pid: 12,
            pid_start: 13,
            state: State::Backoff,
            restarts: 3,
            started_ms: 1_700_000_000_001,
            finished_ms: 1_700_000_000_002,
            exit_code: Some(7),
            signal: Some(9),
            oom: true,
            fail_stage: Some("exec".to_owned()),
            fail_errno: Some(2),
            next_start_ms: 1_700_000_000_003,
            log_low: 4096,
            log_base: 5,
        }
    }

    fn put(file: &mut [u8], record: &Record, seq: u64) {
        let (at, slot) = record.encode(seq).unwrap();
        let at = usize::try_from(at).unwrap();
        file[at..at + SLOT].copy_from_slice(&slot);
    }

    #[test]
    fn a_record_comes_back() {
        for record in [Record::default(), full()] {
            let mut file = vec![0; FILE];
            put(&mut file, &record, 41);
            assert_eq!(read(&file), Some(Stored { seq: 41, record }));
        }
    }

    #[test]
    fn every_state_comes_back() {
        for state in State::ALL {
            let mut file = vec![0; FILE];
            put(&mut file, &Record { state, ..full() }, 1);
            assert_eq!(read(&file).unwrap().record.state, state);
        }
    }

    #[test]
    fn the_newer_slot_wins_and_a_torn_one_loses() {
        let mut file = vec![0; FILE];
        assert_eq!(read(&file), None);
        put(
            &mut file,
            &Record {
                restarts: 1,
                ..full()
            },
            6,
        );
        put(
            &mut file,
            &Record {
                restarts: 2,
                ..full()
            },
            7,
        );
        assert_eq!(read(&file).unwrap().seq, 7);
        for byte in [0, 9, 17, 21, 30, 100] {
            let mut torn = file.clone();
            torn[SLOT + byte] ^= 0x10;
            assert_eq!(read(&torn).unwrap().record.restarts, 1, "byte {byte}");
            torn[byte] ^= 0x10;
            assert_eq!(read(&torn), None, "byte {byte}");
        }
        assert_eq!(read(&file[..SLOT]).unwrap().seq, 6);
        assert_eq!(read(&file[..SLOT - 1]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_length_beyond_the_slot_is_not_believed() {
        let mut file = vec![0; FILE];
        put(&mut file, &full(), 2);
        file[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&file), None);
    }

    #[test]
    fn a_value_cannot_make_a_line() {
        let mut file = vec![0; FILE];
        put(
            &mut file,
            &Record {
                uid: "x\nstate=failed".to_owned(),
                ..full()
            },
            2,
        );
        let record = read(&file).unwrap().record;
        assert_eq!(
            (record.state, record.uid.as_str()),
            (State::Backoff, "xstate=failed")
        );
    }

    #[test]
    fn a_carriage_return_stays_with_its_value() {
        let mut file = vec![0; FILE];
        let record = Record {
            uid: "u\r".to_owned(),
            ..full()
        };
        put(&mut file, &record, 2);
        assert_eq!(read(&file).unwrap().record, record);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(
            Record {
                uid: "x".repeat(SLOT),
                ..full()
            }
            .encode(1)
            .is_none()
        );
    }

    #[test]
    fn later_keys_are_skipped_and_later_versions_refused() {
        let text = full().text();
        assert_eq!(
            Record::parse(&format!("{text}colour=green\n")),
            Some(full())
        );
        assert_eq!(Record::parse(&text.replace("version=1", "version=2")), None);
        assert_eq!(Record::parse(&text.replace("state=backoff\n", "")), None);
        assert_eq!(Record::parse("no equals sign"), None);
    }

    #[test]
    fn the_checksum_is_the_common_one() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xCBF4_3926);
    }
}
