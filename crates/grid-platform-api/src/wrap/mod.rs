//! Wrappers that any platform can wear, one on the other.
//!
//! Each passes the conformance suite around a platform that passes it. None has a default method left
//! out: a method added to the contract must be thought of in each.
//!
//! ```
//! # use std::{sync::Arc, time::Duration};
//! # use grid_platform_api::{Platform, wrap::{Limit, Retry, Serial, Trace}};
//! fn dress(platform: Arc<dyn Platform>) -> Arc<dyn Platform> {
//!     let limited = Limit::new(platform, 16);
//!     let patient = Retry::new(Arc::new(limited), 3, Duration::from_millis(100));
//!     Arc::new(Trace::new(Arc::new(Serial::new(Arc::new(patient)))))
//! }
//! ```

mod limit;
mod retry;
mod serial;
mod trace;

pub use limit::Limit;
pub use retry::Retry;
pub use serial::Serial;
pub use trace::Trace;
