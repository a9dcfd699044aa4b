#![doc = include_str!("../README.md")]

mod case;
mod cases;
mod context;
mod deadline;
mod failed;
mod faults;
mod harness;
mod host;
mod memory;
pub mod probe;
mod run;
mod wrapped;

pub use case::{Case, Need, cases};
pub use context::{Context, PATIENCE, fails, seen};
pub(crate) use context::{quick, quickly, read_until, settle};
pub use deadline::eventually;
pub use failed::{Failed, Outcome};
pub use faults::{Fault, Faults};
pub use harness::{BadProgram, Boot, Fixture, Harness, LiveProcess, PortHold, Survey};
pub use host::{HostPlace, environment, parse_boot};
pub use memory::{Flaw, MemoryHarness, MemoryPlatform, World};
pub use run::{Suite, check_case, run};
pub use wrapped::{Wrapped, with_wrappers};

/// The path of the probe program on this host: see [`probe`].
///
/// # Errors
/// When it cannot be written.
pub fn probe_path() -> Outcome<std::path::PathBuf> {
    probe::path()
}
