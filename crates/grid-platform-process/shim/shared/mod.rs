//! What the shim and the adapter both speak: formats, words and the restart policy.
//!
//! Included as source by both (`PROTOCOL.md`), so a format and its parser exist once. Pure and std-only: no file is opened here.

pub(crate) mod launch;
pub(crate) mod policy;
pub(crate) mod record;
pub(crate) mod words;
