//! The suite as a test program.

use std::{panic::AssertUnwindSafe, process::ExitCode, sync::Arc, time::Duration};

use futures::FutureExt;
use grid_platform_api::{DataPolicy, Platform};
use libtest_mimic::{Arguments, Completion, Trial};
use tokio::runtime::{Builder, Runtime};

use crate::{Case, Context, Failed, Harness, Outcome, Survey, cases};

/// How many cases share a processor.
const CASES_PER_PROCESSOR: usize = 6;

/// A test program of the suite: `fn main() -> ExitCode` of a target with `harness = false`.
pub struct Suite {
    parts: Vec<Part>,
    required: bool,
}

/// A harness, and which cases it runs when.
struct Part {
    harness: Arc<dyn Harness>,
    cases: fn(&Case) -> bool,
    is_long: bool,
}

/// The suite over these harnesses, with the arguments of the command line: as [`Suite::run`].
pub fn run(harnesses: Vec<Arc<dyn Harness>>) -> ExitCode {
    Suite::new(harnesses).run()
}

impl Suite {
    /// Every case on every harness.
    pub fn new(harnesses: Vec<Arc<dyn Harness>>) -> Self {
        let suite = Self {
            parts: Vec::new(),
            required: false,
        };
        suite.with(harnesses, |_| true, false)
    }

    /// Adds harnesses whose cases are run only when ignored tests are asked for (`--include-ignored`): where a case takes
    /// long, and what they would show is shown elsewhere too.
    #[must_use]
    pub fn long(self, harnesses: Vec<Arc<dyn Harness>>) -> Self {
        self.with(harnesses, |_| true, true)
    }

    /// Adds a harness with these cases only: where it differs from another one in what they are about.
    #[must_use]
    pub fn some(self, harness: Arc<dyn Harness>, cases: fn(&Case) -> bool) -> Self {
        self.with(vec![harness], cases, false)
    }

    fn with(mut self, all: Vec<Arc<dyn Harness>>, cases: fn(&Case) -> bool, is_long: bool) -> Self {
        self.parts.extend(all.into_iter().map(|harness| Part {
            harness,
            cases,
            is_long,
        }));
        self
    }

    /// Makes a harness whose platform is not there a failure. Otherwise its cases are reported as not run.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    /// Runs what the command line asks for, as any test program does: names to filter by, `--list`, `--exact`.
    ///
    /// A case that does not bind a platform is reported as ignored, with what it needs before its name; so is every
    /// case of a harness whose platform is not there.
    /// Without `--test-threads` as many cases run at once as is quick where they wait rather than compute.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert_with(at_once);
        match self.trials() {
            Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
            Err(failed) => {
                let trial = Trial::test("suite", move || Err(failed.to_string().into()));
                libtest_mimic::run(&arguments, vec![trial]).exit_code()
            }
        }
    }

    fn trials(self) -> Outcome<Vec<Trial>> {
        let runtime = runtime(false)?;
        let mut trials = Vec::new();
        for part in self.parts {
            let survey = runtime.block_on(part.harness.survey());
            if self.required
                && let Err(missing) = &survey
            {
                let words = missing.to_string();
                trials.push(Trial::test(
                    format!("{}::is_there", part.harness.name()),
                    move || Err(words.into()),
                ));
            }
            for case in cases().filter(|case| (part.cases)(case)) {
                let trial = trial(&part.harness, case, &survey);
                trials.push(if part.is_long && !trial.has_ignored_flag() {
                    trial.with_kind("long").with_ignored_flag(true)
                } else {
                    trial
                });
            }
        }
        Ok(trials)
    }
}

/// How many cases run at once unless the command line says so: most of them wait.
fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.saturating_mul(CASES_PER_PROCESSOR)
}

fn trial(harness: &Arc<dyn Harness>, case: &'static Case, survey: &Outcome<Survey>) -> Trial {
    let name = format!("{}::{}", harness.name(), case.name);
    let reason = match survey {
        Err(missing) => Some(format!("not run: {missing}")),
        Ok(survey) => {
            let missing = case.missing(survey);
            (!missing.is_empty()).then(|| format!("needs {}", missing.join(", ")))
        }
    };
    match (reason, survey) {
        (None, Ok(survey)) => {
            let (harness, survey) = (Arc::clone(harness), survey.clone());
            Trial::test(name, move || {
                let outcome = runtime(harness.is_simulated())
                    .and_then(|rt| rt.block_on(run_case(&*harness, case, &survey)));
                outcome.map_err(|failed| failed.to_string().into())
            })
        }
        (reason, _) => {
            let reason = reason.unwrap_or_default();
            Trial::ignorable_test(name, {
                let reason = reason.clone();
                move || Ok(Completion::ignored_with(reason))
            })
            .with_kind(reason.replace('\n', " "))
            .with_ignored_flag(true)
        }
    }
}

fn runtime(simulated: bool) -> Outcome<Runtime> {
    if simulated {
        let mut paused = Builder::new_current_thread();
        return Ok(paused.enable_all().start_paused(true).build()?);
    }
    let mut real = Builder::new_multi_thread();
    Ok(real.worker_threads(2).enable_all().build()?)
}

/// Runs one case in a fresh fixture and a runtime of its own, as [`run`] does.
///
/// # Errors
/// What the case found, and what the platform left behind.
pub fn check_case(harness: &dyn Harness, case: &Case) -> Outcome {
    runtime(harness.is_simulated())?.block_on(async {
        let survey = harness.survey().await?;
        run_case(harness, case, &survey).await
    })
}

/// Runs one case and cleans up behind it, whatever happens.
async fn run_case(harness: &dyn Harness, case: &Case, survey: &Survey) -> Outcome {
    let fixture = harness
        .fixture()
        .await
        .map_err(|e| e.during("making the fixture"))?;
    let context = Context::open(fixture, survey.clone())
        .await
        .map_err(|e| e.during("opening the platform"))?;
    let limit = harness.case_limit();
    let running = tokio::time::timeout(limit, (case.run)(&context));
    let found = match AssertUnwindSafe(running).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Failed::new(format!("still running after {limit:?}"))),
        Err(panic) => Err(Failed::new(panic_words(&*panic))),
    };
    let cleaned = clean(context, harness.clean_limit()).await;
    match (found, cleaned) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(failed), Ok(())) => Err(failed),
        (Ok(()), Err(left)) => Err(left.during("cleaning up")),
        (Err(failed), Err(left)) => Err(Failed::new(format!("{failed}\nand cleaning up: {left}"))),
    }
}

/// Removes every node, then has the fixture look for what is left.
async fn clean(context: Context, limit: Duration) -> Outcome {
    let (fixture, platform, met_stranger) = context.close();
    let removing = tokio::time::timeout(limit, async {
        remove_all(match platform {
            Some(platform) => platform,
            None => fixture.open().await?,
        })
        .await?;
        if met_stranger {
            remove_all(fixture.open_stranger().await?).await?;
        }
        Ok(())
    });
    let removed = removing.await.unwrap_or_else(|_| {
        Err(Failed::new(format!(
            "the nodes could not be removed in {limit:?}"
        )))
    });
    let clean = fixture.clean_up().await;
    removed.and(clean)
}

async fn remove_all(platform: Arc<dyn Platform>) -> Outcome {
    let nodes = platform.list_nodes().await?;
    let removing = nodes
        .iter()
        .map(|node| platform.remove_node(&node.node_id, DataPolicy::Purge));
    futures::future::try_join_all(removing).await?;
    Ok(())
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(words) = panic.downcast_ref::<&str>() {
        (*words).to_owned()
    } else if let Some(words) = panic.downcast_ref::<String>() {
        words.clone()
    } else {
        "a panic".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use grid_platform_api::async_trait;

    use super::*;
    use crate::{Fixture, MemoryHarness, fails};

    /// A harness whose platform is not on this machine.
    struct Absent;

    #[async_trait]
    impl Harness for Absent {
        fn name(&self) -> &str {
            "absent"
        }

        async fn survey(&self) -> Outcome<Survey> {
            Err(Failed::new("there is no engine"))
        }

        async fn fixture(&self) -> Outcome<Box<dyn Fixture>> {
            Err(Failed::new("never asked for"))
        }
    }

    #[test]
    fn an_absent_platform_is_reported_and_never_passes_in_silence() {
        let trials = Suite::new(vec![Arc::new(Absent)]).trials().unwrap();
        assert_eq!(trials.len(), cases().count());
        for trial in &trials {
            assert!(trial.has_ignored_flag(), "{}", trial.name());
            assert_eq!(trial.kind(), "not run: there is no engine");
        }
        let required = Suite::new(vec![Arc::new(Absent)])
            .required(true)
            .trials()
            .unwrap();
        assert_eq!(required[0].name(), "absent::is_there");
        assert!(!required[0].has_ignored_flag());
    }

    #[test]
    fn long_and_chosen_cases_are_told_by_name() {
        let suite = Suite::new(Vec::new())
            .long(vec![Arc::new(MemoryHarness::new())])
            .some(Arc::new(MemoryHarness::new()), |case| {
                case.name == "spawn_is_idempotent"
            });
        let trials = suite.trials().unwrap();
        assert_eq!(trials.len(), cases().count() + 1);
        let all = trials
            .iter()
            .filter(|it| it.name() == "memory::spawn_is_idempotent");
        let seen: Vec<_> = all.map(|it| (it.kind(), it.has_ignored_flag())).collect();
        assert_eq!(seen, [("long", true), ("", false)]);
    }

    #[test]
    fn a_case_that_does_not_bind_says_what_it_needs() {
        let trials = Suite::new(vec![Arc::new(MemoryHarness::new())])
            .trials()
            .unwrap();
        let find = |name: &str| trials.iter().find(|t| t.name() == name).unwrap();
        assert_eq!(
            find("memory::the_limit_of_processes_holds").kind(),
            "needs pids_limit"
        );
        assert!(!find("memory::spawn_is_idempotent").has_ignored_flag());
    }

    #[test]
    fn names_are_told_once() {
        let mut names: Vec<_> = cases().map(|case| case.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(all >= 50, "{all}");
    }

    #[test]
    fn a_case_that_panics_is_a_failure_and_is_cleaned_up_behind() {
        /// The case's platform, to look at behind it.
        static PLATFORM: Mutex<Option<Arc<dyn Platform>>> = Mutex::new(None);
        let case = Case {
            name: "panics",
            needs: &[],
            run: |c| {
                Box::pin(async {
                    c.spawn(c.probe("n", &["orphan"])?).await?;
                    *PLATFORM.lock().unwrap() = Some(c.platform());
                    panic!("on purpose")
                })
            },
        };
        let failed = check_case(&MemoryHarness::new(), &case).unwrap_err();
        assert_eq!(failed.to_string(), "on purpose");
        let platform = PLATFORM.lock().unwrap().take().unwrap();
        let left = runtime(true).unwrap().block_on(platform.list_nodes());
        assert_eq!(left.unwrap(), []);
    }

    #[test]
    fn a_leak_fails_a_case_that_saw_nothing_wrong() {
        let case = Case {
            name: "leaks",
            needs: &[],
            run: |c| {
                Box::pin(async {
                    c.spawn(c.probe("n", &["orphan"])?).await?;
                    fails(
                        c.platform().stop_node(&c.id("unknown")).await,
                        grid_platform_api::ErrorKind::NotFound,
                    )?;
                    Ok(())
                })
            },
        };
        check_case(&MemoryHarness::new(), &case).unwrap();
        let broken = MemoryHarness::broken(crate::Flaw::LeavesTheTree);
        let failed = check_case(&broken, &case).unwrap_err().to_string();
        assert!(failed.contains("left behind"), "{failed}");
    }
}
