//! Waiting for what tells nobody when it happens.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use crate::{Failed, Outcome};

/// Asks `look` again and again until it gives something, at most for `limit`.
///
/// For what has no event to await, above all a census. What a platform tells by events is awaited by
/// [`PlatformExt::wait_for`](grid_platform_api::PlatformExt::wait_for).
///
/// # Errors
/// `look`'s own at once; after `limit`, that `what` did not come.
pub async fn eventually<T, F>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> Outcome<T>
where
    F: Future<Output = Outcome<Option<T>>>,
{
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(Failed::new(format!("waited {limit:?} for {what}")));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}
