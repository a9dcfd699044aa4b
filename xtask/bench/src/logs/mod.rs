//! A node's log: its end, and following it while it is written to fast.

pub(crate) mod writer;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use grid_platform_api::{
    LogCursor, LogItem, NodeId, Platform, Program as NodeProgram, ReadyMode, SpawnConfig,
};
use grid_platform_process::{ProcessConfig, ProcessPlatform};
use tokio::runtime::Runtime;

use crate::Result;
use crate::bench::Bench;
use crate::cleared::{Cleared, any_program};
use crate::groups::Group;
use crate::proc::{forget_peak, used};
use crate::program::now;
use crate::report::{Row, Unit};
use crate::stats::{Subject, timed};

/// Reading and following.
pub(crate) const GROUP: Group = Group {
    name: "logs",
    about: "The log of one node in the bare adapter, in lines of 128 bytes; the last 100 of them beside `tail` on the same \
        file, and a follower in the same process as the adapter while the program writes as fast as it says, with the \
        adapter's usual budget of 64 MiB. A line's delay is from the program's write to the follower's hands.",
    programs: &[],
    measure,
};

const LINES: usize = 100;
const MIB: f64 = 1_048_576.0;

/// What a node writes that is followed.
const RATE: u64 = 100_000_000;

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = tail(bench, bench.sized(1 << 30, 1 << 20))?;
    rows.extend(follow(bench, bench.sized(1_000_000_000, 2_000_000))?);
    Ok(rows)
}

fn tail(bench: &Bench, bytes: u64) -> Result<Vec<Row>> {
    let size = Unit::Bytes.show(bytes as f64);
    let place = Place::new(Some(2 * bytes.max(1 << 20)))?;
    bench.step("a node writes a long log");
    let id = place.write("long", bytes, None)?;
    let last = place.await_end(&id)?;
    let log = place.log(&id)?;
    let name = format!("get_logs: the last {LINES} lines of {size}");
    let peer = format!("`tail -n {LINES}` on the same file, with its start");
    let lines = || {
        let lines = place
            .runtime
            .block_on(place.platform.get_logs(&id, LINES))?;
        if lines.len() != LINES || lines.last() != Some(&last) {
            return Err(format!("{} lines came, and not the last {LINES}", lines.len()).into());
        }
        Ok(())
    };
    // Memory that was used once stays with the process, so the first read tells what it takes.
    let before = forget_peak()?;
    lines()?;
    let extra = used(std::process::id())?.peak.saturating_sub(before);
    let subjects = vec![
        Subject::time(Row::time(&name).beside(&peer).at_most(0.005), || {
            Ok(timed(lines)?.0)
        }),
        Subject::time(Row::time(&peer), || {
            let (took, output) = timed(|| {
                let mut tail = Command::new("tail");
                let tail = tail.args(["-n", &LINES.to_string()]).arg(&log);
                Ok(tail.stdin(Stdio::null()).output()?)
            })?;
            let text = String::from_utf8_lossy(&output.stdout);
            if text.lines().count() != LINES || text.lines().last() != Some(&last) {
                return Err("`tail` gave other lines".into());
            }
            Ok(took)
        }),
    ];
    let mut rows = bench.interleave(subjects)?;
    let name = format!("get_logs: more resident memory at its peak, first read of {size}");
    rows.push(Row::of(name, Unit::Bytes).with(extra as f64).at_most(MIB));
    place.end(&id)?;
    Ok(rows)
}

fn follow(bench: &Bench, bytes: u64) -> Result<Vec<Row>> {
    let place = Place::new(None)?;
    bench.step("a follower, and a node that writes fast");
    let id = place.write("fast", bytes, Some(RATE))?;
    let followed = place.runtime.block_on(place.follow(&id, bytes))?;
    place.end(&id)?;
    let size = Unit::Bytes.show(bytes as f64);
    let rate = Unit::Throughput.show(RATE as f64);
    let name = |what: &str| format!("follow_logs, {size} written at {rate}: {what}");
    let mut delays = Row::time(name("a line's delay"));
    for delay in &followed.delays {
        delays.add(delay.as_secs_f64());
    }
    let written = bytes as f64 / followed.writing.as_secs_f64();
    // That is told of the program: it may not be able to write so fast.
    Ok(vec![
        Row::of(name("what the program wrote"), Unit::Throughput)
            .with(written)
            .at_least(RATE as f64 * 0.99),
        Row::of(name("gaps"), Unit::Count)
            .with(followed.gaps as f64)
            .at_most(0.0),
        delays,
        Row::time(name("the last line's delay")).with(followed.last.as_secs_f64()),
        Row::of(name("growth of the peak in the second half"), Unit::Bytes)
            .with(followed.grown as f64)
            .at_most(MIB),
    ])
}

/// What a follower found.
struct Followed {
    gaps: usize,
    /// Of one line in a thousand.
    delays: Vec<Duration>,
    last: Duration,
    /// From the program's first line to its last.
    writing: Duration,
    grown: u64,
}

/// An adapter with nodes that write.
struct Place {
    // Closed before its directory goes.
    platform: ProcessPlatform,
    runtime: Runtime,
    _cleared: Cleared,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new(budget: Option<u64>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let runtime = crate::process::runtime()?;
        let dirs = ["state", "data"].map(|it| dir.path().join(it));
        let usual = any_program(&dirs[0], &dirs[1]);
        let config = ProcessConfig {
            log_max_bytes: budget.unwrap_or(usual.log_max_bytes),
            ..usual
        };
        Ok(Self {
            platform: runtime.block_on(ProcessPlatform::open(config))?,
            runtime,
            _cleared: Cleared::new(&dirs),
            _dir: dir,
        })
    }

    /// Starts a node that writes so much, and then waits to be ended.
    fn write(&self, id: &str, bytes: u64, rate: Option<u64>) -> Result<NodeId> {
        let mut args = vec![
            "log-writer".to_owned(),
            "--bytes".to_owned(),
            bytes.to_string(),
        ];
        if let Some(rate) = rate {
            args.extend(["--rate".to_owned(), rate.to_string()]);
        }
        let program = NodeProgram::binary(std::env::current_exe()?, args);
        let config = SpawnConfig::builder(id, program).ready(ReadyMode::Started);
        self.runtime
            .block_on(self.platform.spawn_node(config.build()?))?;
        Ok(NodeId::new(id)?)
    }

    /// Waits for the writer's last line, and gives it.
    fn await_end(&self, id: &NodeId) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            let lines = self.runtime.block_on(self.platform.get_logs(id, 1))?;
            match lines.into_iter().next() {
                Some(line) if line.ends_with(writer::LAST) => return Ok(line),
                _ if Instant::now() > deadline => return Err("the writer does not end".into()),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn log(&self, id: &NodeId) -> Result<std::path::PathBuf> {
        let status = self.runtime.block_on(self.platform.get_node_status(id))?;
        let log = Path::new(&status.native_handle).join("log");
        match log.is_file() {
            true => Ok(log),
            false => Err(format!("no log at `{}`", log.display()).into()),
        }
    }

    async fn follow(&self, id: &NodeId, bytes: u64) -> Result<Followed> {
        let own = std::process::id();
        let mut stream = self.platform.follow_logs(id, LogCursor::Start).await?;
        let (mut gaps, mut lines, mut half) = (0, 0_u64, None);
        let (mut delays, mut first) = (Vec::new(), None);
        while let Some(item) = stream.next().await {
            let line = match item? {
                LogItem::Gap { .. } => {
                    gaps += 1;
                    continue;
                }
                LogItem::Line(line) => line,
            };
            lines += 1;
            let last = line.bytes.ends_with(writer::LAST.as_bytes());
            if lines.is_multiple_of(1000) || lines == 1 || last {
                let written = writer::written(&line.bytes)?;
                let first = *first.get_or_insert(written);
                let delay = now() - written;
                if last {
                    let half = half.ok_or("half of the lines never came")?;
                    return Ok(Followed {
                        gaps,
                        delays,
                        last: delay,
                        writing: written - first,
                        grown: used(own)?.peak.saturating_sub(half),
                    });
                }
                delays.push(delay);
                let seen = written - first;
                if half.is_none() && seen.as_secs_f64() * 2.0 > bytes as f64 / RATE as f64 {
                    half = Some(used(own)?.peak);
                }
            }
        }
        Err("the log ended before its last line".into())
    }

    fn end(&self, id: &NodeId) -> Result<()> {
        self.runtime.block_on(self.platform.stop_node(id))?;
        let purge = grid_platform_api::DataPolicy::Purge;
        Ok(self
            .runtime
            .block_on(self.platform.remove_node(id, purge))?)
    }
}
