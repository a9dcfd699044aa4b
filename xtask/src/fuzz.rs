//! `cargo xtask fuzz`: each target under what libFuzzer makes up.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fail::{Fail, Result};
use crate::needs::{CARGO_FUZZ, CXX, Met, Need};
use crate::sh;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target is run, in seconds.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// The target; all, one after the other, when left out.
    target: Option<String>,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let targets = targets()?;
    let chosen = match &args.target {
        None => targets,
        Some(target) if targets.contains(target) => vec![target.clone()],
        Some(target) => {
            return Err(Fail::new(format!("there is no target `{target}`"))
                .hint(format!("The targets are {}.", targets.join(", "))));
        }
    };
    have(&CXX)?;
    let cargo_fuzz = have(&CARGO_FUZZ)?;
    let mut broken = Vec::new();
    for target in chosen {
        println!("\n{target}: {} s", args.seconds);
        if let Err(fail) = sh::run(&mut command(&cargo_fuzz, &target, args.seconds)?) {
            eprint!("{fail}");
            broken.push(target);
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Fail::new(format!("broken: {}", broken.join(", "))).hint(
        "What broke it is in `xtask/fuzz/crashers`: mend it, see `cargo test -p grid-fuzz` pass, and commit both.",
    ))
}

/// The names of the programs in `xtask/fuzz/targets`, ordered.
fn targets() -> Result<Vec<String>> {
    let dir = sh::root().join("xtask/fuzz/targets");
    let broken = |error| Fail::new(format!("cannot list `{}`: {error}", dir.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        names.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn have(need: &Need) -> Result<PathBuf> {
    match need.ensure() {
        Met::Found(place) | Met::Installed(place) => Ok(place),
        Met::Missing(why) => Err(Fail::new(why).hint(need.mend())),
    }
}

/// What libFuzzer finds new goes to the corpus in the user's cache, and what breaks the target to where it is committed.
fn command(cargo_fuzz: &Path, target: &str, seconds: u32) -> Result<Command> {
    let here = sh::root().join("xtask/fuzz");
    let corpus = sh::cache_dir()
        .map_err(Fail::new)?
        .join("fuzz/corpus")
        .join(target);
    let crashers = here.join("crashers").join(target);
    for dir in [&corpus, &crashers] {
        std::fs::create_dir_all(dir)
            .map_err(|error| Fail::new(format!("cannot make `{}`: {error}", dir.display())))?;
    }
    let mut command = Command::new(cargo_fuzz);
    command
        .current_dir(sh::root())
        // No sanitizer: the toolchain is stable, and what is looked for are broken promises, not broken memory.
        .args(["fuzz", "run", "--sanitizer", "none"])
        .args(["--features", "libfuzzer", "--fuzz-dir"])
        .arg(&here)
        // Instrumented builds are of no use to others.
        .arg("--target-dir")
        .arg(sh::target_dir()?.join("fuzz"))
        .arg(target)
        .arg(corpus)
        .arg(here.join("seeds").join(target))
        .args(["--", "-timeout=10", "-rss_limit_mb=1024"])
        .args(["-max_len=8192", "-print_final_stats=1"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", crashers.display()));
    Ok(command)
}
