//! The end of a long log.

use std::time::{Duration, Instant};

use grid_platform_api::{NodeId, Platform};

use super::bare::Bare;
use super::command::{self, Docker};
use super::place::Place;
use crate::Result;
use crate::bench::Bench;
use crate::proc::{forget_peak, used};
use crate::report::{Row, Unit};
use crate::stats::{Subject, timed};

const LINES: usize = 100;
const MIB: f64 = 1_048_576.0;
/// A line's bytes, its end included, as the program writes them.
const LINE: u64 = 128;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let bytes = bench.sized(1 << 30, 1 << 20);
    let size = Unit::Bytes.show(bytes as f64);
    // The engine writes more around each line than it has.
    let place = Place::new(bench, Some(8 * bytes))?;
    bench.step("a node writes a long log");
    let id = NodeId::new("long")?;
    let count = bytes / LINE;
    place.spawn(place.request(&id, &[count.to_string()])?)?;
    let last = format!("{count:020}");
    await_end(&place, &id, &last)?;
    let check = |lines: &[String]| -> Result<()> {
        match lines.last() {
            Some(line) if lines.len() == LINES && line.starts_with(&last) => Ok(()),
            line => Err(format!("{} lines came, and {line:?} last", lines.len()).into()),
        }
    };
    let lines = || -> Result<()> {
        let lines = place.platform.get_logs(&id, LINES);
        check(&place.runtime.block_on(lines)?)
    };
    // Memory that was used once stays with the process, so the first read tells what it takes.
    let before = forget_peak()?;
    lines()?;
    let extra = used(std::process::id())?.peak.saturating_sub(before);

    let name = format!("get_logs: the last {LINES} lines of {size}");
    let peer = format!("docker logs --tail {LINES}, of the same log");
    let way = place.way("docker")?;
    let bare = Bare::connect(&way)?;
    let docker = bench.program(command::NAME);
    let docker = docker.map(|it| Docker::new(it, &way));
    let container = id.native_name();
    let path = format!("/containers/{container}/logs?stdout=true&stderr=true&tail={LINES}");
    let mut subjects = vec![
        Subject::time(Row::time(&name).beside(&peer).at_most_times(1.0), || {
            Ok(timed(lines)?.0)
        }),
        Subject::time(
            Row::time(format!("bare: the last {LINES} lines of the same log")),
            || {
                let (took, body) = timed(|| bare.call("GET", &path, b""))?;
                let text = String::from_utf8_lossy(&body);
                let lines: Vec<_> = text.lines().map(behind_its_frame).collect();
                check(&lines)?;
                Ok(took)
            },
        ),
    ];
    let mut missing = Row::time(&peer);
    match &docker {
        Ok(docker) => {
            let args = ["logs", "--tail", &LINES.to_string(), &container].map(str::to_owned);
            subjects.push(Subject::time(Row::time(&peer), move || {
                let (took, text) = timed(|| docker.run(&args))?;
                check(&text.lines().map(str::to_owned).collect::<Vec<_>>())?;
                Ok(took)
            }));
        }
        Err(why) => missing = missing.not_run(why),
    }
    let mut rows = bench.interleave(subjects)?;
    if docker.is_err() {
        rows.push(missing);
    }
    let name = format!("get_logs: more resident memory at its peak, first read of {size}");
    rows.push(Row::of(name, Unit::Bytes).with(extra as f64).at_most(MIB));
    place.stop(&id)?;
    place.ended(&id)?;
    place.remove(&id)?;
    Ok(rows)
}

/// Each piece of a log has 8 bytes before it that say which stream it is of and how long it is; here it is a line.
fn behind_its_frame(line: &str) -> String {
    line.chars().skip_while(|it| !it.is_ascii_digit()).collect()
}

/// Waits until the last line is there.
fn await_end(place: &Place, id: &NodeId, last: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        let lines = place.runtime.block_on(place.platform.get_logs(id, 1))?;
        match lines.first() {
            Some(line) if line.starts_with(last) => return Ok(()),
            _ if Instant::now() > deadline => return Err("the writer does not end".into()),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
