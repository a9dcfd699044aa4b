//! The storage server against who does not mean well, over real sockets: each file is one side it is attacked from, each
//! test one attack. Every refusal has a status, a kind and a hint; behind every attack the server still serves, what was
//! stored is stored, and nothing is left behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod bodies;
#[path = "../common/child.rs"]
mod child;
#[path = "../../../grid-listen/tests/clients/mod.rs"]
#[allow(dead_code, reason = "other servers' tests use the rest")]
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod exhausted;
mod headers;
mod http;
mod idle;
mod keys;
mod slow;
mod target;
mod tokens;
mod uploads;
