//! The suite on the in-memory platform and on every wrapper around it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use grid_platform_api::{
    ErrorKind, Platform,
    wrap::{Limit, Retry, Serial, Trace},
};
use grid_platform_testing::{Fault, Faults, Harness, MemoryHarness, Wrapped, with_wrappers};

fn wrapped(name: &str, dress: fn(Arc<dyn Platform>) -> Arc<dyn Platform>) -> Arc<dyn Harness> {
    Arc::new(Wrapped::new(name, Arc::new(MemoryHarness::new()), dress))
}

fn main() -> ExitCode {
    const PAUSE: Duration = Duration::from_millis(1);
    let mut harnesses = with_wrappers(Arc::new(MemoryHarness::new()));
    harnesses.push(wrapped("memory-all", |p| {
        let limited = Arc::new(Limit::new(p, 8));
        let patient = Arc::new(Retry::new(limited, 3, PAUSE));
        Arc::new(Trace::new(Arc::new(Serial::new(patient))))
    }));
    // A tenth of all calls fails before it is made, and a tenth after: patience makes that good.
    harnesses.push(wrapped("memory-faults", |p| {
        let faults = Faults::new(p, 7);
        faults.add(Fault::before(ErrorKind::Unavailable).chance(0.1));
        faults.add(Fault::after(ErrorKind::Timeout).chance(0.1));
        faults.add(Fault::delay(PAUSE).chance(0.1));
        Arc::new(Retry::new(Arc::new(faults), 20, PAUSE))
    }));
    grid_platform_testing::run(harnesses)
}
