#![doc = include_str!("../README.md")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command; it speaks to the terminal"
)]

mod census;
mod daemon;
mod fleet;
mod follow;
mod inject;
mod objects;
mod opaque;
mod place;
mod plan;
mod platform;
mod proc;
mod proxy;
mod report;
mod run;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use platform::Place;

/// A fault of the run itself; what is wrong with the grid is in the report.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How many faults a run has that is to be quick.
const FEW: u64 = 30;
/// How many things that are wrong are shown.
const SHOWN: usize = 40;
/// How many a full one has.
const FULL: u64 = 5_000;
/// As [`FEW`] and [`FULL`], where each takes a container engine a while.
const FEW_OF_AN_ENGINE: u64 = 20;
const FULL_OF_AN_ENGINE: u64 = 300;
/// As those, where each takes a cluster a while.
const FEW_OF_A_CLUSTER: u64 = 15;
const FULL_OF_A_CLUSTER: u64 = 150;

/// Breaks a grid at seeded random instants, and takes a census of what is left.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo xtask chaos", bin_name = "cargo xtask chaos")]
pub(crate) struct Args {
    /// The platform that nodes run on.
    #[arg(long, value_name = "NAME", default_value = "process", value_parser = clap::builder::PossibleValuesParser::new(platform::NAMES))]
    platform: String,
    /// How many nodes there are at most; half of them storage servers, half of them probes [default: 20, or 8 of an engine or a cluster].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=80))]
    nodes: Option<u16>,
    /// How many faults are delivered [default: 30, or 20 of an engine, 15 of a cluster].
    #[arg(long, conflicts_with = "full")]
    faults: Option<u64>,
    /// What the plan of faults is drawn from; left out, another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// As a release is tried: 5000 faults, or 300 of an engine, 150 of a cluster, and every fault point must have been met.
    #[arg(long)]
    full: bool,
    /// Leave the cluster's own parts alone, as others use it too.
    #[arg(long)]
    spare_cluster: bool,
    /// How the figures are told: a table or JSON.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Where `grid`, `grid-master` and `grid-agent` lie, built with the feature `fault-points`.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// Of platforms that run images: `grid`, linked statically.
    #[arg(long, value_name = "FILE")]
    static_program: Option<PathBuf>,
    /// What this process is of the run: given by the run itself.
    #[arg(long, hide = true, value_enum, default_value_t = Stage::Begin)]
    stage: Stage,
    /// The run's directory and its first port: given by the run itself.
    #[arg(long, hide = true, num_args = 2)]
    place: Vec<String>,
    /// The run has namespaces of its own: given by the run itself.
    #[arg(long, hide = true)]
    own_namespaces: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Chooses a place and goes in.
    Begin,
    /// Buries orphans.
    Bury,
    /// Runs.
    Run,
}

impl Args {
    fn faults(&self) -> u64 {
        let (few, full) = match self.platform.as_str() {
            it if platform::has_own_network(it) => (FEW_OF_AN_ENGINE, FULL_OF_AN_ENGINE),
            it if platform::is_on_a_cluster(it) => (FEW_OF_A_CLUSTER, FULL_OF_A_CLUSTER),
            _ => (FEW, FULL),
        };
        self.faults.unwrap_or(if self.full { full } else { few })
    }

    fn nodes(&self) -> u16 {
        let few =
            platform::has_own_network(&self.platform) || platform::is_on_a_cluster(&self.platform);
        self.nodes.unwrap_or(if few { 8 } else { 20 })
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or(0)
    }

    fn ports(&self) -> Result<u16> {
        Ok(self.place.get(1).ok_or("the run has no place")?.parse()?)
    }

    /// This run again, as a person types it.
    fn again(&self) -> String {
        let many = match self.full {
            true => "--full".to_owned(),
            false => format!("--faults {}", self.faults()),
        };
        let spare = if self.spare_cluster {
            " --spare-cluster"
        } else {
            ""
        };
        format!(
            "cargo xtask chaos --platform {} --nodes {} {many} --seed {}{spare}",
            self.platform,
            self.nodes(),
            self.seed()
        )
    }

    /// The arguments of the next stage.
    fn next(&self, stage: &str, dir: &str, port: u16, own_namespaces: bool) -> Vec<String> {
        let mut args = vec![
            format!("--stage={stage}"),
            format!("--platform={}", self.platform),
            format!("--nodes={}", self.nodes()),
            format!("--seed={}", self.seed()),
            format!("--programs={}", self.programs.display()),
            format!(
                "--output={}",
                if self.output == Output::Json {
                    "json"
                } else {
                    "table"
                }
            ),
        ];
        match self.full {
            true => args.push("--full".to_owned()),
            false => args.push(format!("--faults={}", self.faults())),
        }
        if self.spare_cluster {
            args.push("--spare-cluster".to_owned());
        }
        if let Some(program) = &self.static_program {
            args.push(format!("--static-program={}", program.display()));
        }
        if own_namespaces {
            args.push("--own-namespaces".to_owned());
        }
        args.extend(["--place".to_owned(), dir.to_owned(), port.to_string()]);
        args
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.stage {
        Stage::Begin => begin(args),
        Stage::Bury => args.ports().and_then(|port| {
            place::bury(&args.next("run", &args.place[0], port, args.own_namespaces))
        }),
        Stage::Run => run_to_the_end(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn begin(mut args: Args) -> Result<ExitCode> {
    args.seed.get_or_insert_with(|| fastrand::u64(..1 << 32));
    args.programs = std::path::absolute(&args.programs)?;
    if let Some(program) = &mut args.static_program {
        *program = std::path::absolute(&program)?;
    }
    eprintln!("seed {}: {}", args.seed(), args.again());
    let root = rustix::process::geteuid().is_root();
    let dir = tempfile::Builder::new().prefix("grid-chaos-").tempdir()?;
    let shown = dir.path().display().to_string();
    let network = platform::has_own_network(&args.platform);
    let cluster = platform::is_on_a_cluster(&args.platform);
    if (network || cluster) && !root {
        return Err("only root can have a container engine or a cluster to break".into());
    }
    // What is on a cluster is among the host's processes.
    let own = root && !cluster;
    let next = args.next("bury", &shown, free_ports()?, own);
    let ended = place::enter(own, network, &next)?;
    if network {
        place::sweep_cgroups(dir.path());
    }
    if ended != ExitCode::SUCCESS {
        // What led there is kept.
        let kept = dir.keep();
        eprintln!(
            "hint: The same plan of faults again: `{}`. Logs and state are in `{}`.",
            args.again(),
            kept.display()
        );
    }
    Ok(ended)
}

/// The first of 100 ports that are free now. They lie below those that tests allocate from.
fn free_ports() -> Result<u16> {
    let begin = u16::try_from(std::process::id() % 19)?;
    for slot in 0..19 {
        let first = 10_000 + 100 * ((begin + slot) % 19);
        let all = first..first + 100;
        if all
            .into_iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        {
            return Ok(first);
        }
    }
    Err("there are no 100 free ports from 10000 to 11899".into())
}

fn run_to_the_end(args: &Args) -> Result<ExitCode> {
    let dir = PathBuf::from(args.place.first().ok_or("the run has no place")?);
    let place = Place {
        disk: dir.join("disk"),
        dir,
        own_namespaces: args.own_namespaces,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(run::run(args, place))?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print!("{report}"),
    }
    for what in &report.left_out {
        eprintln!("left out: {what}");
    }
    for wrong in report.violations.iter().take(SHOWN) {
        eprintln!("wrong: {wrong}");
    }
    if let Some(more) = report
        .violations
        .len()
        .checked_sub(SHOWN)
        .filter(|it| *it > 0)
    {
        eprintln!("wrong: {more} things more");
    }
    Ok(match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together_over_all_stages() {
        Args::command().debug_assert();
        let args = Args::parse_from(["chaos", "--programs", "/p", "--seed", "5", "--full"]);
        let next = args.next("bury", "/dir", 10_000, true);
        let next = Args::parse_from(std::iter::once("chaos".to_owned()).chain(next));
        assert_eq!((next.stage, next.own_namespaces), (Stage::Bury, true));
        assert_eq!(
            (next.faults(), next.seed(), next.ports().unwrap()),
            (FULL, 5, 10_000)
        );
        assert_eq!(
            next.again(),
            "cargo xtask chaos --platform process --nodes 20 --full --seed 5"
        );
    }
}
