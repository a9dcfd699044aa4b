//! Counts what `cargo test` prints, and notices a test program that ended without a result.

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    total: Total,
    open: Option<Open>,
}

/// A test program whose output is being read.
#[derive(Debug)]
struct Open {
    name: String,
    /// Documentation tests print a result for each way they are built; a program prints one, its last line.
    many: bool,
    counts: Option<Counts>,
    /// Tests that said that they could not run, which libtest takes for passed.
    not_run: u64,
    /// What it told of its failures: the lines from the last `failures:` to the result, and at most [`TOLD`].
    told: Vec<String>,
    telling: bool,
}

/// How many lines of a program's failures are told again at the end. A run's output is long, and often only its end is
/// kept.
const TOLD: usize = 100;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// The sum over everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Test programs that ended without a result. Each counts as one failure.
    pub(super) crashed: Vec<String>,
    /// What test programs told of their failures, each behind a line with its name.
    pub(super) told: Vec<String>,
}

impl Tally {
    /// Reads one line of the output.
    pub(super) fn read(&mut self, line: &str) {
        let line = without_escapes(line);
        let line = line.trim();
        if let Some(name) = line
            .strip_prefix("Running ")
            .filter(|name| name.ends_with(')'))
        {
            self.open(name, false);
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.open(name, true);
        } else if let Some(open) = &mut self.open
            && says_not_run(line)
        {
            open.not_run += 1;
        } else if let Some(open) = &mut self.open
            && let Some(counts) = result(line)
        {
            let before = open.counts.filter(|_| open.many).unwrap_or_default();
            open.counts = Some(Counts {
                passed: before.passed + counts.passed,
                failed: before.failed + counts.failed,
                skipped: before.skipped + counts.skipped,
            });
            open.telling = false;
        } else if let Some(open) = &mut self.open
            && (open.telling || line == "failures:")
        {
            if !open.telling {
                // What came before was of a suite that a test runs in itself.
                open.told.clear();
                open.telling = true;
            }
            if open.told.len() < TOLD {
                open.told.push(line.to_owned());
            }
        }
    }

    /// The sum. `success` is what cargo's exit code says; where it knows of a failure that no result shows (a build
    /// error, a program that failed after its result), the sum has one too.
    pub(super) fn finish(mut self, success: bool) -> Total {
        self.close();
        if !success && self.total.failed == 0 {
            self.total.crashed.push("cargo test (see above)".into());
            self.total.failed += 1;
        }
        self.total
    }

    fn open(&mut self, name: &str, many: bool) {
        self.close();
        self.open = Some(Open {
            name: name.to_owned(),
            many,
            counts: None,
            not_run: 0,
            told: Vec::new(),
            telling: false,
        });
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if let Some(counts) = open.counts {
            let not_run = open.not_run.min(counts.passed);
            self.total.passed += counts.passed - not_run;
            self.total.failed += counts.failed;
            self.total.skipped += counts.skipped + not_run;
            if counts.failed > 0 {
                self.total.told.push(format!("failed in {}", open.name));
                self.total.told.extend(open.told);
            }
        } else {
            self.total.crashed.push(open.name);
            self.total.failed += 1;
        }
    }
}

impl Total {
    /// The closing line: `N passed, N failed`, and how many were skipped where some were.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{} passed, {} failed", self.passed, self.failed);
        if self.skipped > 0 {
            line.push_str(&format!(", {} skipped", self.skipped));
        }
        line
    }

    /// Counts one more that is not cargo's.
    pub(super) fn add(&mut self, passed: bool) {
        match passed {
            true => self.passed += 1,
            false => self.failed += 1,
        }
    }

    /// Whether tests ran and none failed.
    pub(super) fn is_success(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// The counts of a `test result:` line, as libtest and libtest-mimic print it.
fn result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut sum = Counts::default();
    for part in counts.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match what {
            "passed" => sum.passed += number,
            "failed" => sum.failed += number,
            "ignored" | "filtered out" => sum.skipped += number,
            _ => {}
        }
    }
    Some(sum)
}

/// Whether a test says `not run: NAME: needs WHAT`. One that is ignored by its runner has `test` at the line's start.
fn says_not_run(line: &str) -> bool {
    let said = line.split_once("not run: ");
    said.is_some_and(|(before, what)| {
        what.contains(": needs ") && (before.is_empty() || before.ends_with("... "))
    })
}

/// The line without colours.
fn without_escapes(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\u{1b}' {
            // An escape sequence ends with a letter.
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(char);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, success: bool, line: &str, crashed: &[&str]) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        let total = tally.finish(success);
        assert_eq!(total.line(), line);
        assert_eq!(total.crashed, crashed);
    }

    #[test]
    fn results_of_programs_and_of_documentation_are_summed() {
        check(
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             running 2 tests\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s\n\
             \u{1b}[1m\u{1b}[32m     Running\u{1b}[0m tests/conformance.rs (target/debug/deps/b-1)\n\
             test result: \u{1b}[31mFAILED\u{1b}[0m. 5 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
             \u{20}  Doc-tests a\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             all doctests ran in 0.30s; merged doctests compilation took 0.20s\n",
            false,
            "10 passed, 1 failed, 4 skipped",
            &[],
        );
    }

    #[test]
    fn a_program_that_ends_without_a_result_is_a_failure() {
        check(
            "     Running tests/a.rs (target/debug/deps/a-1)\n\
             running 2 tests\n\
             error: test failed, to rerun pass `--test a`\n\
             \u{20}    Running tests/b.rs (target/debug/deps/b-1)\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            false,
            "1 passed, 1 failed",
            &["tests/a.rs (target/debug/deps/a-1)"],
        );
    }

    #[test]
    fn a_failure_that_only_cargo_knows_of_is_a_failure() {
        check(
            "error: could not compile `a`\n",
            false,
            "0 passed, 1 failed",
            &["cargo test (see above)"],
        );
        let none = Tally::default().finish(true);
        assert!(!none.is_success(), "a run of no test is not a success");
    }

    #[test]
    fn a_test_that_says_it_could_not_run_did_not_pass() {
        check(
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             not run: a::b: needs root\n\
             test a::c ... not run: a::c: needs a cgroup\n\
             test [not run: no engine: needs one] x::y ... ignored\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n",
            true,
            "1 passed, 0 failed, 3 skipped",
            &[],
        );
    }

    #[test]
    fn what_a_program_tells_of_its_failures_is_kept() {
        let mut tally = Tally::default();
        "     Running tests/a.rs (target/debug/deps/a-1)\n\
         failures:\n\
         of a suite that a test runs\n\
         test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
         test a ... FAILED\n\
         test b ... ok\n\
         \n\
         failures:\n\
         \n\
         ---- a stdout ----\n\
         thread 'a' panicked at tests/a.rs:3:5:\n\
         three is not four\n\
         \n\
         failures:\n\
         \x20   a\n\
         \n\
         test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
         error: test failed, to rerun pass `--test a`\n\
         \x20    Running tests/b.rs (target/debug/deps/b-1)\n\
         failures:\n\
         of a suite that is meant to fail\n\
         test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
            .lines()
            .for_each(|line| tally.read(line));
        let told = tally.finish(false).told;
        assert_eq!(told[0], "failed in tests/a.rs (target/debug/deps/a-1)");
        assert!(told.contains(&"three is not four".to_owned()), "{told:?}");
        let others = ["suite", "rerun"];
        let other = |line: &String| others.iter().any(|it| line.contains(it));
        assert!(!told.iter().any(other), "{told:?}");
    }

    #[test]
    fn a_suite_run_inside_a_test_does_not_count() {
        check(
            "     Running unittests src/lib.rs (target/debug/deps/a-1)\n\
             test result: FAILED. 50 passed; 9 failed; 0 ignored; 0 measured; 0 filtered out\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            true,
            "3 passed, 0 failed",
            &[],
        );
    }
}
