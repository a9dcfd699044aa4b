//! The master from outside: HTTP, gRPC, and its end by force.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod agents;
mod api;
mod crash;
mod events;
mod fencing;
mod fuzzing;
mod lifecycle;
mod logs;
mod metrics;
#[path = "../../../grid-listen/tests/clients/promtool.rs"]
mod promtool;
mod real_agent;
mod support;
