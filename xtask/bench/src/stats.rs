//! Durations, taken in turn and summed up.

use std::fmt;
use std::time::{Duration, Instant};

use crate::Result;

/// The head of the table whose lines [`Row`]s are.
pub(crate) const HEAD: &str =
    "| what | median µs | p99 µs | least µs | most µs |\n|---|---:|---:|---:|---:|";

/// A thing to measure: its name, and one round of it, which tells how long the measured part took.
pub(crate) struct Subject<'a> {
    name: &'static str,
    round: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Subject<'a> {
    /// A thing of this name, one round of which is `round`.
    pub(crate) fn new(name: &'static str, round: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self {
            name,
            round: Box::new(round),
        }
    }
}

/// What was measured of one subject.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    name: &'static str,
    /// In ascending order, and at least one.
    sorted: Vec<Duration>,
}

/// Measures all subjects in turn, round by round, after one round that does not count.
pub(crate) fn interleave(mut subjects: Vec<Subject<'_>>, rounds: usize) -> Result<Vec<Row>> {
    let mut taken = vec![Vec::with_capacity(rounds); subjects.len()];
    for round in 0..=rounds {
        for (subject, taken) in subjects.iter_mut().zip(&mut taken) {
            let took = (subject.round)()?;
            if round > 0 {
                taken.push(took);
            }
        }
    }
    let rows = subjects
        .iter()
        .zip(taken)
        .map(|(subject, taken)| Row::new(subject.name, taken));
    Ok(rows.collect())
}

/// Runs the work and tells how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

impl Row {
    fn new(name: &'static str, mut taken: Vec<Duration>) -> Self {
        taken.sort();
        Self {
            name,
            sorted: taken,
        }
    }

    /// The duration that `per_mille` of 1000 rounds do not exceed (nearest rank).
    fn quantile(&self, per_mille: usize) -> Duration {
        let rank = (self.sorted.len() * per_mille).div_ceil(1000).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, p99, least, most] =
            [500, 990, 0, 1000].map(|at| self.quantile(at).as_micros());
        write!(f, "| {} | {median} | {p99} | {least} | {most} |", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_median_p99_and_extremes() {
        let check = |taken: Vec<u64>, expect: &str| {
            let row = Row::new("x", taken.into_iter().map(Duration::from_micros).collect());
            assert_eq!(row.to_string(), expect);
        };
        check((1..=100).rev().collect(), "| x | 50 | 99 | 1 | 100 |");
        check(vec![7], "| x | 7 | 7 | 7 | 7 |");
        check(vec![3, 1, 2], "| x | 2 | 3 | 1 | 3 |");
    }

    #[test]
    fn subjects_take_turns_and_the_first_round_does_not_count() {
        let order = std::cell::RefCell::new(Vec::new());
        let subject = |name: &'static str| {
            let order = &order;
            Subject::new(name, move || {
                order.borrow_mut().push(name);
                Ok(Duration::from_micros(order.borrow().len() as u64))
            })
        };
        let rows = interleave(vec![subject("a"), subject("b")], 1).expect("nothing fails");
        assert_eq!(*order.borrow(), ["a", "b", "a", "b"]);
        let lines: Vec<_> = rows.iter().map(Row::to_string).collect();
        assert_eq!(lines, ["| a | 3 | 3 | 3 | 3 |", "| b | 4 | 4 | 4 | 4 |"]);
    }
}
