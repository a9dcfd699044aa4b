#![doc = include_str!("../README.md")]

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
};

use libtest_mimic::{Arguments, Trial};

/// The file that the machine has and no host.
const SIGN: &str = "/etc/sutra-grid-testbed";

/// How many tests run at once in the machine.
const THREADS: &str = "4";

/// Whether this process runs in the machine.
pub fn is_inside() -> bool {
    Path::new(SIGN).exists()
}

/// A test program whose tests run in the machine: on the host it has itself executed there, with the same arguments.
///
/// `tests` is called in the machine only, and told whether the long tests are asked for too.
pub fn run_inside(tests: impl FnOnce(Arguments) -> ExitCode) -> ExitCode {
    if is_inside() {
        return tests(Arguments::from_args());
    }
    let status = env::current_exe().and_then(|program| {
        let args: Vec<OsString> = env::args_os().skip(1).collect();
        let mut command = script("exec");
        // The machine's own time is slow: what a test waits for comes, but a backtrace says more than a guess.
        command.args(["env", "RUST_BACKTRACE=1"]).arg(program);
        if !args.iter().any(|it| it == "--test-threads") {
            // Each computes there, where on a host it waits.
            command.args(["--test-threads", THREADS]);
        }
        command.args(args).stdin(Stdio::null()).status()
    });
    match status {
        Ok(status) => ExitCode::from(
            status
                .code()
                .and_then(|it| u8::try_from(it).ok())
                .unwrap_or(1),
        ),
        Err(error) => failed(&format!("the machine's script cannot be run: {error}")),
    }
}

/// A test program whose tests run on the host and have the machine for themselves, one after the other.
pub fn run_outside(tests: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// A program without a single test to run has failed all the same.
fn failed(why: &str) -> ExitCode {
    let why = why.to_owned();
    let tests = vec![Trial::test("the_machine_is_there", move || Err(why.into()))];
    libtest_mimic::run(&Arguments::default(), tests).exit_code()
}

/// `vm.sh ACTION`, to which arguments can be added.
pub fn script(action: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("vm.sh"));
    command.arg(action);
    command
}

/// The machine, as tests on the host have it. All of it panics where the machine does not do what it is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl Machine {
    /// Runs a program as root in the machine.
    pub fn output(self, args: &[&str]) -> Output {
        run(script("exec").args(args).stdin(Stdio::null()))
    }

    /// Runs a line of shell as root in the machine, which has to end well, and gives what it printed.
    pub fn shell(self, line: &str) -> String {
        let output = self.output(&["sh", "-c", line]);
        assert!(output.status.success(), "{line}: {}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A port of the host's loopback that leads to this port of the machine's, until the next boot.
    pub fn forward(self, port: u16) -> u16 {
        let printed = self.call("forward", &[&port.to_string()]);
        printed
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("no port: {printed:?}"))
    }

    /// An orderly reboot, until it is up again.
    pub fn reboot(self) {
        self.call("reboot", &[]);
    }

    /// Cuts the power: what was not flushed to the disk is lost.
    pub fn cut_power(self) {
        self.call("powercut", &[]);
    }

    /// Boots again after a cut, until it is up.
    pub fn boot(self) {
        self.call("boot", &[]);
    }

    fn call(self, action: &str, args: &[&str]) -> String {
        let output = run(script(action).args(args).stdin(Stdio::null()));
        assert!(output.status.success(), "{action}: {}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("the machine's script cannot be run: {error}"),
    }
}

/// What a program told, for messages.
pub fn told(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A program of the workspace, as `cargo xtask test` builds it before the first test: at the same path in the machine.
pub fn program(name: &str) -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    // target/PROFILE/deps/TEST
    let place = own.ancestors().nth(2).map(|dir| dir.join(name));
    match place {
        Some(place) if place.is_file() => place,
        _ => panic!("`{name}` is not built: run `cargo build -p {name}`"),
    }
}
