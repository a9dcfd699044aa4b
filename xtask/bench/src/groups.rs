//! The groups there are. A new one is a module with a `GROUP`, and a line here.

use crate::Result;
use crate::bench::Bench;
use crate::report::Row;
use crate::{cli, control_plane, docker, kubernetes, logs, process, scale, storage};

/// Things that are measured together.
#[derive(Debug)]
pub(crate) struct Group {
    /// What people call it on the command line.
    pub(crate) name: &'static str,
    /// What is measured under which conditions: sentences, above its table.
    pub(crate) about: &'static str,
    /// Programs from outside that its peers are, by the names that `cargo xtask` knows them by.
    pub(crate) programs: &'static [&'static str],
    /// Measures.
    pub(crate) measure: fn(&Bench) -> Result<Vec<Row>>,
}

/// All of them, in the order in which they are measured.
pub(crate) const GROUPS: &[Group] = &[
    process::GROUP,
    scale::GROUP,
    logs::GROUP,
    cli::GROUP,
    control_plane::GROUP,
    storage::GROUP,
    docker::GROUP,
    kubernetes::GROUP,
];
