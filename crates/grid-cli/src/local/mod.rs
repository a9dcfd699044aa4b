//! The grid that `grid up` runs on this host: a supervisor, and a master and an agent as its children.
//!
//! Each of the three holds a lock file under `run/` that says who it is, so that any of them can be killed at any
//! instant: who comes next finds out who still lives, and nobody is taken for somebody else.

mod child;
mod control;
mod down;
mod image;
mod lock;
mod logfile;
mod platform;
mod process;
mod state;
mod status;
mod supervisor;

pub(crate) use control::{Connection, Watch};
pub(crate) use down::{Ended, Keepers, Nodes, bring_down};
pub(crate) use image::OwnImage;
pub(crate) use lock::RunLock;
pub(crate) use logfile::{Follower, last_lines, length as log_length, open as open_log};
pub(crate) use platform::{LocalPlatform, Name as PlatformName};
pub(crate) use state::StateDir;
pub(crate) use status::{ChildStatus, Readiness, Status};
pub(crate) use supervisor::{Plan, supervise};

/// The name of the agent that `grid up` starts.
pub(crate) const AGENT_ID: &str = "agent-1";
