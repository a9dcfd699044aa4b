#![doc = include_str!("../README.md")]

mod api;
mod engine;
mod image;
pub mod kubernetes;
mod leftovers;
mod network;
mod proc;
mod registry;
mod tar;

pub use api::{Answer, Api};
pub use engine::{Engine, Kind, Options, Temporary, can_raise, find};
pub use image::{Image, build};
pub use leftovers::{owned, sweep};
pub use proc::{Process, processes};
pub use registry::{claim, release, sweep_dead};
pub use tar::Tar;
