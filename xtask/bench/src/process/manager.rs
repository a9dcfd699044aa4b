//! A process manager beside which a node is measured: it starts and stops the same program when it is asked to.

use std::time::Duration;

use crate::Result;
use crate::program::{Program, now};
use crate::report::Row;
use crate::stats::Subject;

/// They are slow beside the others.
const EVERY: usize = 4;

/// A running process manager with one program. It keeps no durable record of what it starts.
pub(super) trait Manager {
    /// Starts the program, until the manager says so.
    fn start(&self) -> Result<()>;

    /// Stops it, until the manager says so.
    fn stop(&self) -> Result<()>;

    /// Has the manager as it was before the start.
    fn forget(&self) -> Result<()>;
}

/// The rows of a manager: of a start two, of a stop two.
pub(super) fn rows(name: &str, how: &str, [start, stop]: [&str; 2]) -> [Row; 4] {
    [
        Row::time(format!(
            "{name} ({how}): until the program's first instruction"
        ))
        .beside(super::SPAWN_BEGAN),
        Row::time(format!("{name}: until {start} is answered")).beside(super::SPAWN),
        Row::time(format!("{name}: until {stop} is answered")).beside(super::STOP),
        Row::time(format!(
            "{name}: from the program's own end until {stop} is answered"
        )),
    ]
}

/// Starting and stopping, as what is measured in turn with the others.
pub(super) fn subjects<'a>(
    manager: &'a dyn Manager,
    program: &'a Program,
    [began, started, stopped, behind]: [Row; 4],
) -> [Subject<'a>; 2] {
    let start = move || -> Result<[Duration; 2]> {
        let asked = now();
        manager.start()?;
        let answered = now();
        Ok([program.began()? - asked, answered - asked])
    };
    let stop = move || -> Result<[Duration; 2]> {
        let asked = now();
        manager.stop()?;
        let answered = now();
        let times = [answered - asked, answered - program.ended()?];
        manager.forget()?;
        Ok(times)
    };
    [
        Subject::times([began, started], move || {
            let times = start()?;
            stop()?;
            Ok(times)
        })
        .every(EVERY),
        Subject::times([stopped, behind], move || {
            start()?;
            stop()
        })
        .every(EVERY),
    ]
}
