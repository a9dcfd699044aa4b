#![doc = include_str!("../README.md")]

pub mod durable;
mod fence;
mod logs;
mod observed;
mod report;
pub mod seal;
mod wish;

pub use fence::Fence;
pub use logs::{log_item_from_wire, log_item_to_wire};
pub use observed::Observation;
pub use report::{report_from_json, report_to_json};
pub use wish::{Want, Wish};

/// The generated types of `proto/grid/v1/agent.proto`; what each field means stands there.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("grid.v1");
}

/// The version of the protocol. A master refuses an agent whose version it does not know.
pub const PROTOCOL: u32 = 1;
