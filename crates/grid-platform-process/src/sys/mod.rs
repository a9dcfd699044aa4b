//! The system beneath, as far as std does not reach. All that is Linux's own stands here.

pub(crate) mod exec;
pub(crate) mod proc;

pub(crate) use grid_platform_host::{files, users};
