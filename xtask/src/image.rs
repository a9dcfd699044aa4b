//! `cargo xtask image`: the grid's own parts as images, FROM scratch, with no registry.

use std::path::{Path, PathBuf};

use grid_testbed::{Api, Kind, Tar};

use crate::fail::{Fail, Result};
use crate::sh;

/// Arguments of `cargo xtask image`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Build the programs without optimization: quicker, and much larger.
    #[arg(long)]
    dev: bool,
}

/// A part of the grid: its image, the package and the program in it, and what the program is built with.
struct Part {
    name: &'static str,
    package: &'static str,
    program: &'static str,
    features: &'static str,
}

// The server is a subcommand, of a command that needs to know no platform for it.
const STORAGE: Part = Part {
    name: "storage",
    package: "grid-cli",
    program: "grid",
    features: "",
};

const PARTS: [Part; 3] = [
    Part {
        name: "agent",
        package: "grid-agent",
        program: "grid-agent",
        features: "platform-docker",
    },
    Part {
        name: "master",
        package: "grid-master",
        program: "grid-master",
        features: "",
    },
    STORAGE,
];

/// Runs `cargo xtask image`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let api = engine()?;
    for name in make(&api, args)? {
        println!("image: {name}");
    }
    Ok(())
}

/// The images that tests run, on the tests' engine.
pub(crate) fn for_tests() -> Result<()> {
    let api = grid_testbed::find(Kind::Docker).map_err(Fail::new)?;
    make(&api, &Args { dev: true }).map(drop)
}

/// The storage server as it is in its image.
pub(crate) fn storage_server(dev: bool) -> Result<PathBuf> {
    STORAGE.build(&target()?, dev)
}

/// Statically linked programs have a place of their own: nothing that others build can be used for them.
fn target() -> Result<PathBuf> {
    Ok(sh::target_dir()?.join("image"))
}

/// Builds the programs and the images on the engine, and gives the images' names.
pub(crate) fn make(api: &Api, args: &Args) -> Result<Vec<String>> {
    let target = target()?;
    PARTS
        .iter()
        .map(|part| {
            let program = part.build(&target, args.dev)?;
            part.assemble(api, &program)
        })
        .collect()
}

/// The engine that `DOCKER_HOST` names, the system's, or the tests' own.
fn engine() -> Result<Api> {
    let of_the_system = || Api::new("unix:///var/run/docker.sock").ok();
    let named = std::env::var_os(Kind::Docker.variable()).is_some_and(|it| !it.is_empty());
    if !named && let Some(api) = of_the_system().filter(|it| it.ping().is_ok()) {
        return Ok(api);
    }
    grid_testbed::find(Kind::Docker).map_err(|why| {
        Fail::new(format!("there is no engine to build images on: {why}"))
            .hint("Start Docker, set `DOCKER_HOST`, or run `cargo xtask testbed up docker`.")
    })
}

impl Part {
    /// Builds the program, linked statically: nothing else need be in its image.
    fn build(&self, target: &Path, dev: bool) -> Result<PathBuf> {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut cargo = sh::cargo();
        cargo
            .args(["build", "--quiet", "--locked", "--no-default-features"])
            .args(["--package", self.package, "--bin", self.program])
            .args(["--features", self.features])
            // Named, so that programs of the build itself are not linked so.
            .args(["--target", &triple])
            .arg("--target-dir")
            .arg(target)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_DEV_STRIP", "symbols");
        if !dev {
            cargo.arg("--release");
        }
        sh::run(&mut cargo)?;
        let profile = if dev { "debug" } else { "release" };
        Ok(target.join(triple).join(profile).join(self.program))
    }

    /// Has the engine build the image by its Dockerfile.
    fn assemble(&self, api: &Api, program: &Path) -> Result<String> {
        let dir = sh::root().join("deploy/docker").join(self.name);
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| Fail::new(format!("cannot read `{}`: {error}", path.display())))
        };
        let context = Tar::default()
            .file("Dockerfile", 0o644, &read(&dir.join("Dockerfile"))?)
            .file(self.program, 0o755, &read(program)?)
            .dir("state", 0o755, 0)
            .finish();
        let name = format!("sutra-grid/{}:{}", self.name, env!("CARGO_PKG_VERSION"));
        grid_testbed::build(api, &name, &context)
            .map_err(|why| Fail::new(format!("cannot build the image `{name}`: {why}")))?;
        Ok(name)
    }
}
