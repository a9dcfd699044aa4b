#![doc = include_str!("../README.md")]

/// The generated types of `proto/grid/v1/agent.proto`; what each field means stands there.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("grid.v1");
}

/// The version of the protocol. A master refuses an agent whose version it does not know.
pub const PROTOCOL: u32 = 1;
