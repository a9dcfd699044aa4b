//! What a group is given to measure with.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::Result;
use crate::report::Row;
use crate::stats::{self, Subject};

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// Everything as small as it can be: to see that it runs, not how fast.
    Quick,
    Usual,
    /// The long runs too.
    Full,
}

/// A run of the bench.
#[derive(Debug)]
pub(crate) struct Bench {
    /// How often each thing that is measured in rounds is measured.
    pub(crate) rounds: usize,
    size: Size,
    group: &'static str,
    /// Programs from outside by their names: where they are, or why they are not.
    programs: BTreeMap<String, std::result::Result<PathBuf, String>>,
}

impl Bench {
    /// A run.
    pub(crate) fn new(
        rounds: usize,
        size: Size,
        programs: BTreeMap<String, std::result::Result<PathBuf, String>>,
    ) -> Self {
        Self {
            rounds,
            size,
            group: "",
            programs,
        }
    }

    #[cfg(test)]
    pub(crate) fn of_rounds(rounds: usize) -> Self {
        Self::new(rounds, Size::Quick, BTreeMap::new())
    }

    /// Turns to a group.
    pub(crate) fn enter(&mut self, group: &'static str) {
        self.group = group;
    }

    /// The first, or in a quick run the second.
    pub(crate) fn sized<T>(&self, full: T, quick: T) -> T {
        if self.size == Size::Quick {
            quick
        } else {
            full
        }
    }

    /// Whether the long runs are asked for.
    pub(crate) fn is_full(&self) -> bool {
        self.size == Size::Full
    }

    /// Where a program from outside is, or why it is not there: lower case, no full stop.
    pub(crate) fn program(&self, name: &str) -> std::result::Result<PathBuf, String> {
        self.programs
            .get(name)
            .cloned()
            .unwrap_or_else(|| Err(format!("`{name}` was not asked for")))
    }

    /// A program of this repository, built beside this one.
    pub(crate) fn own_program(&self, name: &str) -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        // A test's programs are in the same directory as what they test.
        let path = own.with_file_name(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(format!(
            "`{}` is not built: `cargo build --bins` makes it",
            path.display()
        )
        .into())
    }

    /// Measures the subjects in turn, round by round.
    pub(crate) fn interleave(&self, subjects: Vec<Subject<'_>>) -> Result<Vec<Row>> {
        stats::interleave(self, subjects)
    }

    /// Says what is going on to who watches, for a step that has no rounds.
    pub(crate) fn step(&self, what: &str) {
        if stderr().is_terminal() {
            eprintln!("{}: {what}", self.group);
        }
    }

    /// A bar of so many steps, on a terminal; elsewhere nothing.
    pub(crate) fn progress(&self, steps: usize) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(
            Some(steps as u64),
            // Hidden where standard error is not a terminal.
            ProgressDrawTarget::stderr(),
        );
        if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar.with_prefix(self.group)
    }
}
