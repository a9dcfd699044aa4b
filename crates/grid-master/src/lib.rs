#![doc = include_str!("../README.md")]

mod app;
mod auth;
pub mod cli;
mod error;
mod events;
mod grid;
mod http;
mod link;
mod master;
mod metrics;
mod ops;
mod scheduler;
mod settings;
mod state;
mod store;
mod translate;
mod view;

pub use master::Master;
pub use settings::{Limits, Settings};
