//! What was measured, as a table of Markdown or as JSON.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::stats::quantile;

/// What figures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Seconds; shown as µs, ms or s.
    Time,
    /// Bytes; shown as KiB, MiB or GiB.
    Bytes,
    /// Bytes a second; shown as MB/s (of 10^6 bytes).
    Throughput,
    /// So many a second.
    Rate,
    /// Hundredths.
    Percent,
    /// A plain number.
    Count,
}

impl Unit {
    /// The figure with three digits that count.
    pub(crate) fn show(self, figure: f64) -> String {
        let digits = |figure: f64| {
            let places = match figure.abs() {
                it if it >= 99.95 => 0,
                it if it >= 9.995 => 1,
                _ => 2,
            };
            let text = format!("{figure:.places$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        };
        match self {
            Self::Time if figure < 1e-3 => format!("{} µs", digits(figure * 1e6)),
            Self::Time if figure < 1.0 => format!("{} ms", digits(figure * 1e3)),
            Self::Time => format!("{} s", digits(figure)),
            Self::Bytes if figure.abs() < 1_048_576.0 => format!("{} KiB", digits(figure / 1024.0)),
            Self::Bytes if figure.abs() < 1_073_741_824.0 => {
                format!("{} MiB", digits(figure / 1_048_576.0))
            }
            Self::Bytes => format!("{} GiB", digits(figure / 1_073_741_824.0)),
            Self::Throughput => format!("{} MB/s", digits(figure / 1e6)),
            Self::Rate => format!("{}/s", digits(figure)),
            Self::Percent => format!("{} %", digits(figure)),
            Self::Count => digits(figure),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Time => "seconds",
            Self::Bytes => "bytes",
            Self::Throughput => "bytes per second",
            Self::Rate => "per second",
            Self::Percent => "percent",
            Self::Count => "count",
        }
    }
}

/// What a row's median has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    Most(f64),
    Least(f64),
    /// At most so many times the median of the row that it stands beside.
    Times(f64),
}

/// One thing that was measured, or that was not, with the reason.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    name: String,
    unit: Unit,
    figures: Vec<f64>,
    not_run: Option<String>,
    beside: Option<String>,
    targets: Vec<Target>,
}

impl Row {
    /// A row with no figures yet.
    pub(crate) fn of(name: impl Into<String>, unit: Unit) -> Self {
        Self {
            name: name.into(),
            unit,
            figures: Vec::new(),
            not_run: None,
            beside: None,
            targets: Vec::new(),
        }
    }

    /// A row of times.
    pub(crate) fn time(name: impl Into<String>) -> Self {
        Self::of(name, Unit::Time)
    }

    /// Names the row of the same table whose median this one's is divided by.
    pub(crate) fn beside(mut self, name: impl Into<String>) -> Self {
        self.beside = Some(name.into());
        self
    }

    /// The median may not be more: seconds, bytes, ... as the unit has it.
    pub(crate) fn at_most(mut self, bound: f64) -> Self {
        self.targets.push(Target::Most(bound));
        self
    }

    /// The median may not be less.
    pub(crate) fn at_least(mut self, bound: f64) -> Self {
        self.targets.push(Target::Least(bound));
        self
    }

    /// The median may not be more than so many times that of the row that it stands beside.
    pub(crate) fn at_most_times(mut self, times: f64) -> Self {
        self.targets.push(Target::Times(times));
        self
    }

    /// With one more figure.
    pub(crate) fn with(mut self, figure: f64) -> Self {
        self.add(figure);
        self
    }

    /// It could not be measured here, and why: lower case, no full stop.
    pub(crate) fn not_run(mut self, why: impl Into<String>) -> Self {
        self.not_run = Some(why.into());
        self
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, figure: f64) {
        self.figures.push(figure);
    }

    /// Its figures in ascending order.
    pub(crate) fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.figures.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> Option<f64> {
        quantile(&self.sorted(), 500)
    }
}

/// The rows of a group.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) group: &'static str,
    /// The conditions: sentences.
    pub(crate) about: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// What a row is beside another one.
struct Beside {
    /// The other row's number in the table.
    number: usize,
    times: Option<f64>,
}

impl Table {
    fn beside(&self, row: &Row) -> Option<Beside> {
        let name = row.beside.as_ref()?;
        let at = self.rows.iter().position(|it| it.name == *name)?;
        let other = self.rows.get(at).and_then(Row::median);
        Some(Beside {
            number: at + 1,
            times: row.median().zip(other).map(|(own, other)| own / other),
        })
    }

    /// Each target of the row as text, and whether it is met; `None` where that cannot be told.
    fn targets(&self, row: &Row) -> Vec<(String, Option<bool>)> {
        let median = row.median();
        let beside = self.beside(row);
        let told = |target: &Target| match *target {
            Target::Most(bound) => (
                format!("≤ {}", row.unit.show(bound)),
                median.map(|it| it <= bound),
            ),
            Target::Least(bound) => (
                format!("≥ {}", row.unit.show(bound)),
                median.map(|it| it >= bound),
            ),
            Target::Times(bound) => {
                let number = beside.as_ref().map_or(0, |it| it.number);
                let times = beside.as_ref().and_then(|it| it.times);
                (
                    format!("≤ {}× ({number})", Unit::Count.show(bound)),
                    times.map(|it| it <= bound),
                )
            }
        };
        row.targets.iter().map(told).collect()
    }

    /// Names and figures that a row is said to have and has not: a mistake of the group.
    pub(crate) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for row in &self.rows {
            if row.not_run.is_none() && row.figures.iter().all(|it| !it.is_finite()) {
                mistakes.push(format!("`{}` has no figure", row.name));
            }
            if row.beside.is_some() && self.beside(row).is_none() {
                mistakes.push(format!("`{}` stands beside no row", row.name));
            }
        }
        mistakes
    }

    /// The targets that are missed.
    pub(crate) fn missed(&self) -> Vec<String> {
        let of_row = |row: &Row| {
            let missed = self
                .targets(row)
                .into_iter()
                .filter(|(_, met)| *met == Some(false));
            missed
                .map(|(target, _)| format!("{}: {target}", row.name))
                .collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    fn markdown(&self, row: &Row, number: usize) -> String {
        let mut line = format!("| {number} | {} |", row.name);
        let sorted = row.sorted();
        let show = |per_mille| {
            quantile(&sorted, per_mille).map_or_else(String::new, |it| row.unit.show(it))
        };
        if let Some(why) = &row.not_run {
            let _ = write!(line, " not run: {why} | | | | ");
        } else if sorted.len() == 1 {
            let _ = write!(line, " {} | | | 1 | ", show(500));
        } else {
            let _ = write!(
                line,
                " {} | {} | {} … {} | {} | ",
                show(500),
                show(990),
                show(250),
                show(750),
                sorted.len()
            );
        }
        if row.not_run.is_none()
            && let Some(Beside { number, times }) = self.beside(row)
            && let Some(times) = times
        {
            let _ = write!(line, "{}× ({number})", Unit::Count.show(times));
        }
        line.push_str(" | ");
        let targets: Vec<String> = self
            .targets(row)
            .into_iter()
            .map(|(target, met)| match met {
                Some(true) => format!("{target}: met"),
                Some(false) => format!("{target}: **missed**"),
                None => target,
            })
            .collect();
        let _ = write!(line, "{} |", targets.join("; "));
        line
    }

    fn json(&self, row: &Row) -> Value {
        let sorted = row.sorted();
        let at = |per_mille| quantile(&sorted, per_mille);
        let targets: Vec<Value> = self
            .targets(row)
            .into_iter()
            .map(|(target, met)| json!({"target": target, "met": met}))
            .collect();
        json!({
            "name": row.name,
            "unit": row.unit.name(),
            "not_run": row.not_run,
            "rounds": sorted.len(),
            "median": at(500),
            "p99": at(990),
            "p25": at(250),
            "p75": at(750),
            "least": at(0),
            "most": at(1000),
            "beside": row.beside,
            "times": self.beside(row).and_then(|it| it.times),
            "targets": targets,
        })
    }
}

impl Table {
    /// Everything of the group: conditions, machine, table.
    pub(crate) fn section(&self, machine: &Machine) -> String {
        let mut text = format!(
            "{} {machine}\n\n| | what | median | p99 | middle half | n | beside | target |\n\
             |---:|---|---:|---:|---:|---:|---:|---|\n",
            self.about
        );
        for (at, row) in self.rows.iter().enumerate() {
            text.push_str(&self.markdown(row, at + 1));
            text.push('\n');
        }
        text
    }
}

/// All groups of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) tables: Vec<Table>,
}

impl Report {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let groups: Vec<Value> = self
            .tables
            .iter()
            .map(|table| {
                let rows: Vec<Value> = table.rows.iter().map(|row| table.json(row)).collect();
                json!({"name": table.group, "about": table.about, "rows": rows})
            })
            .collect();
        json!({"machine": self.machine.json(), "groups": groups})
    }

    /// Puts each group's section into a document, between the lines that name the group there.
    ///
    /// # Errors
    /// When the document has no place for a group.
    pub(crate) fn write_into(&self, document: &str) -> crate::Result<String> {
        let mut text = document.to_owned();
        for table in &self.tables {
            let begin = format!("<!-- bench: {} -->\n", table.group);
            let end = "<!-- end -->";
            let Some(from) = text.find(&begin).map(|it| it + begin.len()) else {
                return Err(format!("the document has no line `{}`", begin.trim_end()).into());
            };
            let Some(to) = text.get(from..).and_then(|it| it.find(end)) else {
                return Err(format!("`{}` has no `{end}` after it", begin.trim_end()).into());
            };
            text.replace_range(from..from + to, &table.section(&self.machine));
        }
        Ok(text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "## {}\n\n{}", table.group, table.section(&self.machine))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: Vec<Row>) -> Table {
        Table {
            group: "g",
            about: "Conditions.",
            rows,
        }
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let check = |unit: Unit, figure: f64, expect: &str| {
            assert_eq!(unit.show(figure), expect);
        };
        check(Unit::Time, 0.000_000_5, "0.5 µs");
        check(Unit::Time, 0.000_812_4, "812 µs");
        check(Unit::Time, 0.003_2, "3.2 ms");
        check(Unit::Time, 0.025, "25 ms");
        check(Unit::Time, 3.0, "3 s");
        check(Unit::Bytes, 1024.0, "1 KiB");
        check(Unit::Bytes, -2048.0, "-2 KiB");
        check(Unit::Bytes, 31_457_280.0, "30 MiB");
        check(Unit::Bytes, 1_073_741_824.0, "1 GiB");
        check(Unit::Throughput, 1e8, "100 MB/s");
        check(Unit::Rate, 12_345.6, "12346/s");
        check(Unit::Percent, 0.987, "0.99 %");
        check(Unit::Count, 1000.0, "1000");
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_median() {
        let fast = Row::time("fast").with(0.001).with(0.002).with(0.003);
        let slow = Row::time("slow")
            .with(0.005)
            .beside("fast")
            .at_most(0.005)
            .at_most_times(2.0);
        let table = table(vec![fast.at_least(0.002), slow]);
        assert_eq!(table.missed(), ["slow: ≤ 2× (1)"]);
        assert_eq!(
            table.markdown(&table.rows[0], 1),
            "| 1 | fast | 2 ms | 3 ms | 1 ms … 3 ms | 3 |  | ≥ 2 ms: met |"
        );
        assert_eq!(
            table.markdown(&table.rows[1], 2),
            "| 2 | slow | 5 ms | | | 1 | 2.5× (1) | ≤ 5 ms: met; ≤ 2× (1): **missed** |"
        );
    }

    #[test]
    fn what_was_not_run_says_why_and_meets_nothing() {
        let peer = Row::time("peer").not_run("no peer here");
        let own = Row::time("own").with(1.0).beside("peer").at_most_times(3.0);
        let table = table(vec![peer, own]);
        assert_eq!(table.mistakes(), Vec::<String>::new());
        assert_eq!(table.missed(), Vec::<String>::new());
        assert_eq!(
            table.markdown(&table.rows[0], 1),
            "| 1 | peer | not run: no peer here | | | |  |  |"
        );
        assert_eq!(
            table.markdown(&table.rows[1], 2),
            "| 2 | own | 1 s | | | 1 |  | ≤ 3× (1) |"
        );
    }

    #[test]
    fn a_row_without_figures_or_with_a_wrong_peer_is_a_mistake() {
        let table = table(vec![
            Row::time("empty"),
            Row::time("lonely").with(1.0).beside("nobody"),
        ]);
        assert_eq!(
            table.mistakes(),
            ["`empty` has no figure", "`lonely` stands beside no row"]
        );
    }

    #[test]
    fn a_section_replaces_what_stood_in_its_place() {
        let report = Report {
            machine: Machine::default(),
            tables: vec![table(vec![Row::time("a").with(1.0)])],
        };
        let document = "head\n<!-- bench: g -->\nold\n<!-- end -->\ntail\n";
        let new = report.write_into(document).expect("there is a place");
        assert!(
            new.starts_with("head\n<!-- bench: g -->\nConditions."),
            "{new}"
        );
        assert!(
            new.ends_with("| 1 | a | 1 s | | | 1 |  |  |\n<!-- end -->\ntail\n"),
            "{new}"
        );
        assert!(report.write_into("no place").is_err());
        assert!(report.write_into("<!-- bench: g -->\nno end").is_err());
    }
}
