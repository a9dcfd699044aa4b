//! How long a slow peer is waited for.

use std::time::Duration;

/// A peer that is slower than this over time is given up: far below any link that serves, in bytes per second.
const RATE: u64 = 1024;

/// Waits for a peer that makes progress, and gives up one that makes none, or as good as none.
///
/// Waiting costs patience and progress earns it back, a second for each KiB and never beyond the limit. So who sends or
/// takes nothing is given up after the limit, who does it byte by byte soon after, and who is merely slow never.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    limit: Duration,
    left: Duration,
}

impl Patience {
    /// The whole patience of `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, left: limit }
    }

    /// How long the next wait may take.
    pub fn left(&self) -> Duration {
        self.left
    }

    /// Notes that `bytes` came, or went, after a wait.
    pub fn progress(&mut self, waited: Duration, bytes: usize) {
        let micros = (bytes as u64).saturating_mul(1_000_000) / RATE;
        let left = self.left.saturating_sub(waited);
        self.left = self.limit.min(left + Duration::from_micros(micros));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a peer that sends `bytes` after each wait is waited for, of at most 1000 times.
    fn waits(bytes: usize, wait: Duration) -> usize {
        let mut patience = Patience::new(Duration::from_secs(60));
        (0..1000)
            .take_while(|_| {
                let in_time = wait <= patience.left();
                patience.progress(wait, bytes);
                in_time
            })
            .count()
    }

    #[test]
    fn who_drips_is_given_up_and_who_is_slow_is_not() {
        let check = |bytes, wait_secs, expect| {
            let wait = Duration::from_secs(wait_secs);
            assert_eq!(waits(bytes, wait), expect, "{bytes} bytes after {wait:?}");
        };
        // A byte at a time, often or seldom.
        check(1, 1, 60);
        check(1, 59, 1);
        check(0, 61, 0);
        // Half the rate lasts twice as long; the rate itself for ever.
        check(512, 1, 119);
        check(1024, 1, 1000);
        check(60 * 1024, 60, 1000);
        // What was sent quickly buys no silence later.
        let mut patience = Patience::new(Duration::from_secs(60));
        patience.progress(Duration::ZERO, 1 << 40);
        assert_eq!(patience.left(), Duration::from_secs(60));
    }
}
