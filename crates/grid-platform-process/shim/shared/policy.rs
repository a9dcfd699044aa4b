//! When a program that ended is started again.

/// Which ends are followed by a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// None.
    Never,
    /// An exit code other than 0, a signal, a start that failed.
    OnFailure,
    /// All but an end that was asked for.
    Always,
}

impl Restart {
    /// The word of the launch file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Restart::Never => "never",
            Restart::OnFailure => "on-failure",
            Restart::Always => "always",
        }
    }

    /// The policy that `word` names.
    pub(crate) fn parse(word: &str) -> Option<Restart> {
        [Restart::Never, Restart::OnFailure, Restart::Always]
            .into_iter()
            .find(|it| it.as_str() == word)
    }
}

/// The restart policy of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Which ends are followed by a start.
    pub(crate) restart: Restart,
    /// The wait before the first restart of a series, in ms.
    pub(crate) backoff_initial_ms: u64,
    /// The longest wait, in ms.
    pub(crate) backoff_max_ms: u64,
    /// A run this long, in ms, ends a series.
    pub(crate) reset_after_ms: u64,
    /// The most restarts in one series.
    pub(crate) max_restarts: Option<u64>,
}

/// What follows an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Start again after `wait_ms`; `series` is to be given to the next call.
    Start {
        /// The wait, in ms.
        wait_ms: u64,
        /// Restarts in this series, this one included.
        series: u64,
    },
    /// Stay ended.
    End,
}

impl Policy {
    /// What follows a run of `ran_ms` that ended in `failure` or not, after `series` restarts without a long run between them.
    pub(crate) fn after(&self, series: u64, ran_ms: u64, failure: bool) -> Next {
        let wanted = match self.restart {
            Restart::Never => false,
            Restart::OnFailure => failure,
            Restart::Always => true,
        };
        // A run of no time never resets, so that a `reset_after_ms` of 0 does not undo the bound for starts that fail.
        let done = if ran_ms > 0 && ran_ms >= self.reset_after_ms {
            0
        } else {
            series
        };
        if !wanted || self.max_restarts.is_some_and(|max| done >= max) {
            return Next::End;
        }
        let factor = 1_u64
            .checked_shl(u32::try_from(done).unwrap_or(u32::MAX))
            .unwrap_or(u64::MAX);
        Next::Start {
            wait_ms: self
                .backoff_initial_ms
                .saturating_mul(factor)
                .min(self.backoff_max_ms),
            series: done + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Next, Policy, Restart};

    fn policy(restart: Restart, max_restarts: Option<u64>) -> Policy {
        Policy {
            restart,
            backoff_initial_ms: 100,
            backoff_max_ms: 1_000,
            reset_after_ms: 5_000,
            max_restarts,
        }
    }

    fn check(
        policy: &Policy,
        (series, ran_ms, failure): (u64, u64, bool),
        expect: Option<(u64, u64)>,
    ) {
        let expect = expect.map_or(Next::End, |(wait_ms, series)| Next::Start {
            wait_ms,
            series,
        });
        assert_eq!(
            policy.after(series, ran_ms, failure),
            expect,
            "{policy:?} after {series} {ran_ms} {failure}"
        );
    }

    #[test]
    fn which_ends_are_followed() {
        check(&policy(Restart::Never, None), (0, 1, true), None);
        check(&policy(Restart::Never, None), (0, 1, false), None);
        check(&policy(Restart::OnFailure, None), (0, 1, false), None);
        check(
            &policy(Restart::OnFailure, None),
            (0, 1, true),
            Some((100, 1)),
        );
        check(
            &policy(Restart::Always, None),
            (0, 1, false),
            Some((100, 1)),
        );
        check(&policy(Restart::Always, None), (0, 1, true), Some((100, 1)));
    }

    #[test]
    fn the_wait_doubles_to_its_bound() {
        let always = policy(Restart::Always, None);
        check(&always, (1, 1, true), Some((200, 2)));
        check(&always, (3, 1, true), Some((800, 4)));
        check(&always, (4, 1, true), Some((1_000, 5)));
        check(&always, (63, 1, true), Some((1_000, 64)));
        check(&always, (64, 1, true), Some((1_000, 65)));
        check(
            &always,
            (u64::from(u32::MAX) + 9, 1, true),
            Some((1_000, u64::from(u32::MAX) + 10)),
        );
    }

    #[test]
    fn a_long_run_ends_the_series() {
        check(
            &policy(Restart::Always, Some(3)),
            (3, 5_000, true),
            Some((100, 1)),
        );
        check(&policy(Restart::Always, Some(3)), (3, 4_999, true), None);
    }

    #[test]
    fn a_series_is_bounded() {
        check(
            &policy(Restart::OnFailure, Some(2)),
            (1, 1, true),
            Some((200, 2)),
        );
        check(&policy(Restart::OnFailure, Some(2)), (2, 1, true), None);
        check(&policy(Restart::Always, Some(0)), (0, 1, true), None);
        let mut eager = policy(Restart::Always, Some(1));
        eager.reset_after_ms = 0;
        check(&eager, (1, 0, true), None);
    }

    #[test]
    fn words_come_back() {
        for it in [Restart::Never, Restart::OnFailure, Restart::Always] {
            assert_eq!(Restart::parse(it.as_str()), Some(it));
        }
        assert_eq!(Restart::parse("sometimes"), None);
    }
}
