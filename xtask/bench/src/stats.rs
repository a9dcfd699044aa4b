//! Rounds, taken in turn: whatever state the machine is in, all subjects meet it.

use std::time::{Duration, Instant};

use crate::Result;
use crate::bench::Bench;
use crate::report::Row;

/// A thing to measure: the rows it fills, and one round of it, which gives one figure for each.
pub(crate) struct Subject<'a> {
    rows: Vec<Row>,
    /// It is measured in every so manyth round.
    every: usize,
    round: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Subject<'a> {
    /// A thing of which one round takes a time.
    pub(crate) fn time(row: Row, mut round: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self::times([row], move || Ok([round()?]))
    }

    /// A thing of which one round takes several times, one for each row.
    pub(crate) fn times<const N: usize>(
        rows: [Row; N],
        mut round: impl FnMut() -> Result<[Duration; N]> + 'a,
    ) -> Self {
        Self::figures(rows, move || Ok(round()?.map(|it| it.as_secs_f64())))
    }

    /// A thing of which one round gives a figure for each row, in the row's unit.
    pub(crate) fn figures<const N: usize>(
        rows: [Row; N],
        mut round: impl FnMut() -> Result<[f64; N]> + 'a,
    ) -> Self {
        Self {
            rows: rows.into(),
            every: 1,
            round: Box::new(move || Ok(round()?.into())),
        }
    }

    /// A slow thing: it takes its turn in every so manyth round only.
    pub(crate) fn every(mut self, rounds: usize) -> Self {
        self.every = rounds.max(1);
        self
    }
}

/// Measures all subjects in turn, round by round, after one round that does not count.
pub(crate) fn interleave(bench: &Bench, mut subjects: Vec<Subject<'_>>) -> Result<Vec<Row>> {
    let progress = bench.progress(bench.rounds);
    for round in 0..=bench.rounds {
        for subject in &mut subjects {
            let turn = round == 0 || (round - 1).is_multiple_of(subject.every);
            if !turn {
                continue;
            }
            let figures = (subject.round)()?;
            if round > 0 {
                for (row, figure) in subject.rows.iter_mut().zip(figures) {
                    row.add(figure);
                }
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(subjects.into_iter().flat_map(|it| it.rows).collect())
}

/// Runs the work and tells how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

/// The figure that `per_mille` of 1000 do not exceed (nearest rank), of figures in ascending order.
pub(crate) fn quantile(sorted: &[f64], per_mille: usize) -> Option<f64> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_were_measured() {
        let check = |taken: &[f64], expect: [f64; 4]| {
            let found = [0, 500, 990, 1000].map(|at| quantile(taken, at).expect("a figure"));
            assert_eq!(found, expect);
        };
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        check(&hundred, [1.0, 50.0, 99.0, 100.0]);
        check(&[7.0], [7.0; 4]);
        check(&[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 3.0]);
        assert_eq!(quantile(&[], 500), None);
    }

    #[test]
    fn subjects_take_turns_and_the_first_round_does_not_count() {
        let order = std::cell::RefCell::new(Vec::new());
        let subject = |name: &'static str| {
            let order = &order;
            Subject::time(Row::time(name), move || {
                order.borrow_mut().push(name);
                Ok(Duration::from_secs(order.borrow().len() as u64))
            })
        };
        let bench = Bench::of_rounds(3);
        let rows =
            interleave(&bench, vec![subject("a"), subject("b").every(2)]).expect("nothing fails");
        assert_eq!(*order.borrow(), ["a", "b", "a", "b", "a", "a", "b"]);
        let figures: Vec<_> = rows.iter().map(Row::sorted).collect();
        assert_eq!(figures, [vec![3.0, 5.0, 6.0], vec![4.0, 7.0]]);
    }
}
