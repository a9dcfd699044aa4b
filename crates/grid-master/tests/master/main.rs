//! The master from outside: HTTP, gRPC, and its end by force.

mod agents;
mod api;
mod crash;
mod events;
mod fencing;
mod lifecycle;
mod logs;
mod support;
