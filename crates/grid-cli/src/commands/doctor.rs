//! `grid doctor`.

use crate::{context::Context, error::Result};

pub(super) async fn run(_context: &Context) -> Result<()> {
    Ok(())
}
