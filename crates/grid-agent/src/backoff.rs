//! Waits between tries.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Waits that double from try to try, up to a longest, and vary so that many that failed together do not come back
/// together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The wait behind the failure number `failures`, from 1: between three quarters and five quarters of its figure.
    pub(crate) fn wait(&self, failures: u32) -> Duration {
        // A fresh RandomState is seeded at random: enough to spread tries, and nothing more is asked of it.
        let random = RandomState::new().hash_one(failures);
        self.figure(failures)
            .mul_f64(0.75 + 0.5 * (random as f64 / u64::MAX as f64))
    }

    fn figure(&self, failures: u32) -> Duration {
        let doubled = 1u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
        };
        let check = |failures, millis| {
            let figure = Duration::from_millis(millis);
            assert_eq!(backoff.figure(failures), figure, "{failures}");
            let wait = backoff.wait(failures);
            assert!(wait >= figure.mul_f64(0.74) && wait <= figure.mul_f64(1.26));
        };
        check(0, 100);
        check(1, 100);
        check(2, 200);
        check(6, 3200);
        check(7, 5000);
        check(1000, 5000);
    }
}
