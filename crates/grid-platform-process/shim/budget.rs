//! How much of a log is kept and how often it is looked at: arithmetic only.

use std::time::Duration;

const BLOCK: u64 = 4096;
const STEP: u64 = 1024 * 1024;
const FAST: Duration = Duration::from_millis(50);
const STEADY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(10);
/// The most bytes of index.
pub(crate) const INDEX_MAX: usize = 256 * 1024;
/// One index entry: unix ms and logical offset, both u64 LE.
pub(crate) const ENTRY: usize = 16;

/// The new first kept byte of a file of `size` bytes that is kept from `low` on, when it is over `budget`.
///
/// It lies a step below the budget, so that not every look has to cut: 1 MiB, or a quarter of a small budget.
pub(crate) fn cut(size: u64, low: u64, budget: u64) -> Option<u64> {
    if size.saturating_sub(low) <= budget {
        return None;
    }
    let step = STEP.min(budget / 4);
    let target = (size - budget).saturating_add(step).div_ceil(BLOCK) * BLOCK;
    // A block that is still being written is not cut.
    Some(target.min(size / BLOCK * BLOCK)).filter(|it| *it > low)
}

/// The wait for the next look, after one that came `before` the last and found that the log `grown` so many bytes.
pub(crate) fn pace(before: Duration, grown: u64, budget: Option<u64>) -> Duration {
    let flood = budget.map_or(u64::MAX, |it| STEP.min(it / 16).max(BLOCK));
    match grown {
        0 => (before * 2).min(IDLE),
        _ if grown >= flood => FAST,
        _ => (before * 2).min(STEADY),
    }
}

/// The entries that stay when an index is thinned: those that point at kept bytes, and of these every second when they are still more
/// than half of what is allowed.
pub(crate) fn thin(index: &[u8], low: u64) -> Vec<u8> {
    let offset = |entry: &[u8]| {
        entry
            .get(8..)
            .and_then(|it| it.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    let kept: Vec<&[u8]> = index
        .chunks_exact(ENTRY)
        .filter(|it| offset(it) >= low)
        .collect();
    let every = if kept.len() * ENTRY > INDEX_MAX / 2 {
        2
    } else {
        1
    };
    // Counted from the end: the newest stays.
    let first = kept.len().saturating_sub(1) % every;
    kept.into_iter()
        .skip(first)
        .step_by(every)
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{ENTRY, INDEX_MAX, cut, pace, thin};
    use std::time::Duration;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_cut_keeps_the_budget() {
        let check = |(size, low, budget), expect| {
            assert_eq!(cut(size, low, budget), expect, "{size} {low} {budget}")
        };
        check((0, 0, 0), None);
        check((10 * MIB, 0, 10 * MIB), None);
        check((10 * MIB + 1, 0, 10 * MIB), Some(MIB + 4096));
        check((100 * MIB, 95 * MIB, 10 * MIB), None);
        check((100 * MIB, 50 * MIB, 10 * MIB), Some(91 * MIB));
        // A small budget is cut by quarters, in whole blocks.
        check((65_537, 0, 65_536), Some(20_480));
        // Less than a block cannot be punched.
        check((4_000, 0, 100), None);
        check((5_000, 0, 100), Some(4_096));
        check((5_000, 4_096, 100), None);
        for (size, budget) in [(7 * MIB + 13, MIB), (MIB, 70_000), (1 << 40, 10 * MIB)] {
            let low = cut(size, 0, budget).unwrap();
            assert!(
                size - low <= budget && low.is_multiple_of(4096),
                "{size} {budget} {low}"
            );
        }
    }

    #[test]
    fn the_pace_follows_the_flood() {
        let ms = Duration::from_millis;
        let check = |(before, grown, budget), expect| {
            assert_eq!(pace(ms(before), grown, budget), ms(expect))
        };
        check((50, 0, None), 100);
        check((8_000, 0, None), 10_000);
        check((10_000, 0, Some(MIB)), 10_000);
        check((10_000, 1, Some(MIB)), 1_000);
        check((50, 1, Some(MIB)), 100);
        check((10_000, MIB, Some(MIB)), 50);
        check((10_000, MIB, None), 1_000);
    }

    fn index(count: u64) -> Vec<u8> {
        (0..count)
            .flat_map(|it| [it.to_le_bytes(), (it * 10).to_le_bytes()].concat())
            .collect()
    }

    #[test]
    fn the_index_forgets_what_is_gone_and_thins_the_rest() {
        assert_eq!(thin(&index(10), 0), index(10));
        assert_eq!(thin(&index(10), 45), index(10)[5 * ENTRY..]);
        assert_eq!(thin(&index(10)[..37], 0), index(2));
        let full = index((INDEX_MAX / ENTRY) as u64);
        let thinned = thin(&full, 0);
        assert_eq!(thinned.len(), INDEX_MAX / 2);
        assert_eq!(thinned[thinned.len() - ENTRY..], full[full.len() - ENTRY..]);
        assert!(thin(&[], 0).is_empty());
    }
}
