//! The suite on the in-memory platform and on every wrapper around it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use grid_platform_api::{
    ErrorKind, Platform,
    wrap::{Limit, Retry, Serial, Trace},
};
use grid_platform_testing::{Fault, Faults, Harness, MemoryHarness, Wrapped};

fn wrapped<F>(name: &str, dress: F) -> Arc<dyn Harness>
where
    F: Fn(Arc<dyn Platform>) -> Arc<dyn Platform> + Clone + Send + Sync + 'static,
{
    Arc::new(Wrapped::new(name, Arc::new(MemoryHarness::new()), dress))
}

fn main() -> ExitCode {
    let pause = Duration::from_millis(1);
    grid_platform_testing::run(vec![
        Arc::new(MemoryHarness::new()),
        wrapped("memory-limit", |p| Arc::new(Limit::new(p, 4))),
        wrapped("memory-retry", move |p| Arc::new(Retry::new(p, 3, pause))),
        wrapped("memory-serial", |p| Arc::new(Serial::new(p))),
        wrapped("memory-trace", |p| Arc::new(Trace::new(p))),
        // A tenth of all calls fails before it is made, and a tenth after: patience makes that good.
        wrapped("memory-faults", move |p| {
            let faults = Faults::new(p, 7);
            faults.add(Fault::before(ErrorKind::Unavailable).chance(0.1));
            faults.add(Fault::after(ErrorKind::Timeout).chance(0.1));
            faults.add(Fault::delay(pause).chance(0.1));
            Arc::new(Retry::new(Arc::new(faults), 20, pause))
        }),
        wrapped("memory-all", move |p| {
            let limited = Arc::new(Limit::new(p, 8));
            let patient = Arc::new(Retry::new(limited, 3, pause));
            Arc::new(Trace::new(Arc::new(Serial::new(patient))))
        }),
    ])
}
