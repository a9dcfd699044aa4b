//! The master against who does not mean well, over real sockets: each file is one side it is attacked from, each test one
//! attack. Every refusal has a status, a kind and a hint; behind every attack the master still serves, nothing is changed,
//! and nothing is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod agents;
mod bodies;
#[path = "../../../grid-listen/tests/clients/mod.rs"]
mod clients;
mod frames;
mod http;
mod idle;
mod json;
mod messages;
mod settings;
mod slow;
#[path = "../master/support.rs"]
#[allow(dead_code, reason = "the other tests of the master use the rest")]
mod support;
mod target;
mod tokens;
