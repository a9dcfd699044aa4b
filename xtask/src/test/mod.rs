//! `cargo xtask test`: a line per platform, the whole workspace's tests, one sum.

mod platforms;
mod tally;

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::chaos;
use crate::fail::{Fail, Result};
use crate::needs::{Met, NEEDS};
use crate::sh;
use platforms::{PLATFORMS, Platform, Raised};
use tally::{Tally, Total};

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only this platform's tests.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(platforms::names()))]
    only: Option<String>,
    /// Fail when something cannot be run. With `CI=true` in the environment that is so anyway.
    #[arg(long, value_name = "WHAT")]
    require: Option<Require>,
    /// Run the long tests too: those marked `#[ignore]`.
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Require {
    /// Every platform, and every program from outside.
    All,
}

/// What of the workspace is run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selection {
    /// Only these packages; all when empty.
    packages: Vec<&'static str>,
    /// All packages but these.
    exclude: Vec<&'static str>,
    /// Build the programs of these too.
    programs: Vec<&'static str>,
    /// Leave out tests with one of these in their names.
    skip: Vec<&'static str>,
    /// Reasons why this run cannot pass, whatever the tests say.
    missing: Vec<String>,
    /// Where programs from outside are that are not on `PATH`.
    places: Vec<PathBuf>,
}

/// Runs `cargo xtask test`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let required = args.require == Some(Require::All) || is_ci();
    let mut raised = Raised::default();
    let (selection, ready) = select(args.only.as_deref(), required, &mut raised);
    if !selection.missing.is_empty() {
        return Err(Fail::new(format!(
            "cannot run everything: {}",
            selection.missing.join("; ")
        ))
        .hint("Leave out `--require all` (and `CI=true`) to run what can be run here."));
    }
    let mut built = scope(&selection);
    built.extend(selection.programs.iter().flat_map(|it| ["--package", it]));
    sh::build(&built)?;
    let tried: Vec<&str> = ready.iter().map(|it| it.name).collect();
    for platform in ready {
        platform.prepare()?;
    }
    let mut total = run_cargo_test(&selection, &scope(&selection), args.full)?;
    drop(raised);
    for platform in chaos::PLATFORMS {
        // The workspaces that tests of this task make up have no grid to break.
        if !tried.contains(&platform) || !chaos::is_here() {
            continue;
        }
        println!();
        if let Err(why) = chaos::can_run(platform) {
            println!("chaos, {platform}: not run: {why}");
            if required {
                total.add(false);
            }
            continue;
        }
        println!("chaos, {platform}: run");
        let broken = chaos::run_in_tests(platform);
        total.add(broken.is_ok());
        if let Err(fail) = broken {
            eprint!("{fail}");
        }
    }
    for line in &total.told {
        println!("{line}");
    }
    for name in &total.crashed {
        println!("ended without a result: {name}");
    }
    println!();
    println!("{}", total.line());
    if total.is_success() {
        Ok(())
    } else {
        Err(Fail::default())
    }
}

/// Looks at every platform and need, prints its line and decides what is run.
fn select(
    only: Option<&str>,
    required: bool,
    raised: &mut Raised,
) -> (Selection, Vec<&'static Platform>) {
    let mut selection = Selection::default();
    let mut ready = Vec::new();
    let chosen = |platform: &Platform| {
        only.is_none_or(|name| name == platform.name) && (platform.is_in_workspace)()
    };
    for platform in PLATFORMS.iter().filter(|platform| chosen(platform)) {
        match platform.ready(raised) {
            Ok(()) => {
                println!("{}: run", platform.name);
                ready.push(platform);
                if only.is_some() {
                    selection.packages.extend(platform.packages);
                    // With the whole workspace they are built anyway.
                    selection.programs.extend(platform.programs);
                }
            }
            Err(why) => {
                println!("{}: not run: {why}", platform.name);
                selection.exclude.extend(platform.packages);
                // Who names a platform wants it.
                if required || only.is_some() {
                    selection.missing.push(format!("{}: {why}", platform.name));
                }
            }
        }
    }
    shared(&mut selection.packages, &ready, PLATFORMS);
    for need in NEEDS {
        match need.ensure() {
            Met::Missing(why) => {
                println!("{}: not run: {why}", need.program);
                selection.skip.push(need.in_test_names);
                if required {
                    selection.missing.push(format!("{}: {why}", need.program));
                }
            }
            ref met @ (Met::Found(ref place) | Met::Installed(ref place)) => {
                println!("{}: {met}", need.program);
                if sh::which(need.program).is_none() {
                    selection
                        .places
                        .extend(place.parent().map(Path::to_path_buf));
                }
            }
        }
    }
    (selection, ready)
}

/// Leaves out what needs another platform too, which was not looked at.
fn shared(packages: &mut Vec<&'static str>, ready: &[&Platform], platforms: &[Platform]) {
    let is_ready = |platform: &Platform| ready.iter().any(|it| it.name == platform.name);
    packages.retain(|package| {
        let mut of = platforms.iter().filter(|it| it.packages.contains(package));
        of.all(is_ready)
    });
}

/// The packages as arguments of cargo.
fn scope(selection: &Selection) -> Vec<&'static str> {
    if selection.packages.is_empty() {
        let mut args = vec!["--workspace"];
        args.extend(
            selection
                .exclude
                .iter()
                .flat_map(|name| ["--exclude", name]),
        );
        args
    } else {
        selection
            .packages
            .iter()
            .flat_map(|name| ["--package", name])
            .collect()
    }
}

/// Runs `cargo test`, passes its output on and counts.
fn run_cargo_test(selection: &Selection, scope: &[&str], full: bool) -> Result<Total> {
    let mut command = sh::cargo();
    command
        .args(["test", "--no-fail-fast"])
        .args(scope)
        .arg("--");
    command.args(selection.skip.iter().flat_map(|name| ["--skip", name]));
    if full {
        command.arg("--include-ignored");
    }
    if !selection.places.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Behind what is there, so that a tool's own Python stands in for nobody's.
        let places = std::env::split_paths(&path).chain(selection.places.iter().cloned());
        let path = std::env::join_paths(places)
            .map_err(|error| Fail::new(format!("cannot extend PATH: {error}")))?;
        command.env("PATH", path);
    }
    if std::io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let broken = |error: std::io::Error| Fail::new(format!("cannot run `cargo test`: {error}"));
    // One pipe for both streams: cargo names each test program on one of them and the program answers on the other,
    // and their order tells which result is whose.
    let (reader, writer) = std::io::pipe().map_err(broken)?;
    command
        .stderr(writer.try_clone().map_err(broken)?)
        .stdout(writer);
    let mut child = command.spawn().map_err(broken)?;
    // The command holds the write ends; the reader sees the end only when they are gone.
    drop::<Command>(command);
    let tally = pass_on(reader).map_err(broken)?;
    let status = child.wait().map_err(broken)?;
    Ok(tally.finish(status.success()))
}

/// Copies the output to ours, line by line, and counts.
fn pass_on(reader: impl std::io::Read) -> std::io::Result<Tally> {
    let mut tally = Tally::default();
    let mut reader = BufReader::new(reader);
    let mut out = std::io::stdout().lock();
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        out.write_all(&line)?;
        out.flush()?;
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(tally)
}

/// The sign that CI services set.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_the_workspace_or_the_named_packages() {
        let all = Selection {
            exclude: vec!["a"],
            ..Selection::default()
        };
        assert_eq!(scope(&all), ["--workspace", "--exclude", "a"]);
        let some = Selection {
            packages: vec!["a", "b"],
            ..Selection::default()
        };
        assert_eq!(scope(&some), ["--package", "a", "--package", "b"]);
    }

    #[test]
    fn a_package_of_two_platforms_is_run_where_both_are() {
        let check = |names: &[&str], expect| {
            let named = |it: &&Platform| names.contains(&it.name);
            let ready: Vec<&Platform> = PLATFORMS.iter().filter(named).collect();
            let mut packages = vec!["grid-hybrid", ready[0].packages[0]];
            shared(&mut packages, &ready, PLATFORMS);
            assert_eq!(packages.contains(&"grid-hybrid"), expect, "{names:?}");
            assert!(packages.contains(&ready[0].packages[0]), "{names:?}");
        };
        check(&["docker"], false);
        check(&["kubernetes"], false);
        check(&["docker", "kubernetes"], true);
    }
}
