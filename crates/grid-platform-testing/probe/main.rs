//! The probe: the program that is the node in the suite's cases.
//!
//! It writes down in its data that it was started, does what its arguments say, then listens on its ports and does
//! what it is asked over HTTP: `GET /healthz`, `GET /do/ACTION`. The standard library alone, so that the build
//! script compiles it with one call of `rustc` and an image needs nothing but this file.

#![allow(clippy::exit, reason = "a program that ends as it is told to")]

#[allow(unreachable_pub, reason = "the library exports it")]
mod script;
mod serve;
mod sys;

use std::{
    env,
    ffi::c_long,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
    process::{self, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use script::Action;

/// What the probe knows and does differently as it is told.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) unhealthy: AtomicBool,
    boot: AtomicU32,
    linger_ms: AtomicU64,
    ignored: Mutex<Vec<i32>>,
    descriptors: OnceLock<String>,
    listening: AtomicBool,
    /// How it ends once the answer is out: an exit code, or 1000 and a signal's number; -1 is not at all.
    end: AtomicI32,
}

static STATE: OnceLock<State> = OnceLock::new();

pub(crate) fn state() -> &'static State {
    STATE.get_or_init(State::default)
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--orphan-parent") => return orphan_parent(),
        Some("--orphan") => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        _ => {}
    }
    // Before anything is opened, so that what shows was there from the start.
    let _ = state().descriptors.set(descriptors());
    state().end.store(-1, Ordering::SeqCst);
    if let Err(error) = run(&args) {
        let _ = writeln!(io::stderr(), "grid-probe: {error}");
        process::exit(97);
    }
}

fn run(args: &[String]) -> Result<(), String> {
    sys::block_signals();
    thread::spawn(follow_signals);
    let boot = record_boot(args).map_err(|e| format!("cannot record the boot: {e}"))?;
    state().boot.store(boot, Ordering::SeqCst);
    line(&script::boot_line(boot));
    let mut deaf = false;
    let mut skip = false;
    for arg in args {
        let action = Action::parse(arg)?;
        if std::mem::take(&mut skip) {
            continue;
        }
        match action {
            Action::Deaf => deaf = true,
            Action::UpTo(last) => skip = boot > last,
            action => {
                perform(&action)?;
                end_if_told();
            }
        }
    }
    if !deaf {
        listen()?;
    }
    loop {
        thread::park();
    }
}

/// Does the action, and gives its answer.
pub(crate) fn perform(action: &Action) -> Result<String, String> {
    let text = |e: io::Error| e.to_string();
    match action {
        Action::Say(words) => line(words),
        Action::Err(words) => {
            io::stderr()
                .write_all(format!("{words}\n").as_bytes())
                .map_err(text)?;
        }
        Action::Lines(from, to) => lines((*from..=*to).map(script::numbered_line))?,
        Action::Flood(bytes) => lines((1..=script::flood_lines(*bytes)).map(script::flood_line))?,
        Action::Count(ms) => count(Duration::from_millis(*ms)).map_err(text)?,
        Action::Raw(bytes) => bytes_line(bytes),
        Action::Giant(bytes) => bytes_line(&script::giant_line(*bytes)),
        Action::Exit(code) => state().end.store(*code, Ordering::SeqCst),
        Action::Signal(number) => state().end.store(1000 + number, Ordering::SeqCst),
        Action::Wait(ms) => thread::sleep(Duration::from_millis(*ms)),
        Action::Ignore(number) => {
            if let Ok(mut ignored) = state().ignored.lock() {
                ignored.push(*number);
            }
        }
        Action::Linger(ms) => state().linger_ms.store(*ms, Ordering::SeqCst),
        Action::Orphan => {
            let status = Command::new("/proc/self/exe")
                .arg("--orphan-parent")
                .stdin(Stdio::null())
                .status()
                .map_err(text)?;
            if !status.success() {
                return Err(format!("the orphan's parent ended with {status}"));
            }
        }
        Action::Eat(mib) => {
            for _ in 0..*mib {
                std::mem::forget(vec![1u8; 1 << 20]);
            }
        }
        Action::Burn(ms) => {
            // By its own clock and not by the wall's, which goes on while others have the processor.
            let end =
                sys::cpu_time_us() + c_long::try_from(ms * 1000).map_err(|e| e.to_string())?;
            while sys::cpu_time_us() < end {
                std::hint::spin_loop();
            }
        }
        Action::Put(key, value) => {
            let path = data_path()?.join(key);
            let mut file = File::create(path).map_err(text)?;
            file.write_all(value.as_bytes()).map_err(text)?;
            file.sync_all().map_err(text)?;
        }
        Action::Get(key) => {
            return match fs::read_to_string(data_path()?.join(key)) {
                Ok(value) => Ok(value),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("absent".to_owned()),
                Err(e) => Err(e.to_string()),
            };
        }
        Action::Healthy(yes) => state().unhealthy.store(!yes, Ordering::SeqCst),
        Action::Listen => listen()?,
        Action::Deaf | Action::UpTo(_) => return Err("only at the start".to_owned()),
        Action::Boot => return Ok(state().boot.load(Ordering::SeqCst).to_string()),
        Action::Env => {
            let mut all: Vec<_> = env::vars_os()
                .map(|(k, v)| format!("{}={}\n", k.to_string_lossy(), v.to_string_lossy()))
                .collect();
            all.sort();
            return Ok(all.concat());
        }
        Action::Argv => return Ok(env::args().skip(1).map(|a| format!("{a}\n")).collect()),
        Action::Fds => return Ok(state().descriptors.get().cloned().unwrap_or_default()),
        Action::Cwd => return Ok(env::current_dir().map_err(text)?.display().to_string()),
        Action::Nofile => {
            let limits = fs::read_to_string("/proc/self/limits").map_err(text)?;
            let line = limits.lines().find(|l| l.starts_with("Max open files"));
            return line
                .and_then(|l| l.split_whitespace().nth(3))
                .map(str::to_owned)
                .ok_or_else(|| "no such limit".to_owned());
        }
        Action::Secret(name) => {
            use std::os::unix::fs::MetadataExt;
            let dir = env::var("SUTRA_SECRETS_DIR").map_err(|e| e.to_string())?;
            let path = PathBuf::from(dir).join(name);
            let mode = fs::metadata(&path).map_err(text)?.mode() & 0o7777;
            return Ok(format!(
                "{mode:o} {}",
                fs::read_to_string(&path).map_err(text)?
            ));
        }
        Action::Note(_) => {}
    }
    Ok("ok".to_owned())
}

/// Ends the program if an action asked for it. Apart from [`perform`], so that the answer can go out first.
pub(crate) fn end_if_told() {
    match state().end.load(Ordering::SeqCst) {
        -1 => {}
        signal @ 1000.. => {
            sys::die_by(signal - 1000);
            if process::id() == 1 {
                // The first process of a container is not ended by a signal of its own. What runs containers tells an end by a
                // signal by this code, and has no other word for it.
                process::exit(128 + signal - 1000);
            }
            // The signal is one that ends no program.
            process::exit(98);
        }
        code => process::exit(code),
    }
}

fn listen() -> Result<(), String> {
    if state().listening.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let bind = env::var("SUTRA_BIND").unwrap_or_else(|_| "127.0.0.1".to_owned());
    for (name, value) in env::vars() {
        if name != "SUTRA_PORT" && !name.starts_with("SUTRA_PORT_") {
            continue;
        }
        let port = value
            .parse()
            .map_err(|_| format!("`{name}` is `{value}`"))?;
        serve::start(&bind, port).map_err(|e| format!("cannot listen on {bind}:{port}: {e}"))?;
    }
    Ok(())
}

fn data_path() -> Result<PathBuf, String> {
    env::var_os("SUTRA_DATA_PATH")
        .map(PathBuf::from)
        .ok_or_else(|| "`SUTRA_DATA_PATH` is not set".to_owned())
}

/// Writes one whole line, whatever else writes.
fn bytes_line(bytes: &[u8]) {
    let mut whole = bytes.to_vec();
    whole.push(b'\n');
    // A probe whose log is gone goes on: that it must not die of it is the platform's promise.
    let _ = io::stdout().write_all(&whole);
    let _ = io::stdout().flush();
}

fn line(text: &str) {
    bytes_line(text.as_bytes());
}

fn lines(all: impl Iterator<Item = String>) -> Result<(), String> {
    let mut buffer = String::new();
    let mut out = io::stdout().lock();
    let mut put = |buffer: &mut String| {
        let done = out.write_all(buffer.as_bytes()).and_then(|()| out.flush());
        buffer.clear();
        done.map_err(|e| e.to_string())
    };
    for one in all {
        buffer.push_str(&one);
        buffer.push('\n');
        if buffer.len() > 32 * 1024 {
            put(&mut buffer)?;
        }
    }
    put(&mut buffer)
}

/// Goes on writing numbered lines in the background.
fn count(every: Duration) -> io::Result<()> {
    // Past the standard library's buffer, which does not tell how much of a line was taken.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let boot = state().boot.load(Ordering::SeqCst);
    thread::spawn(move || {
        for number in 1.. {
            let line = format!("{}\n", script::count_line(boot, number));
            let mut rest = line.as_bytes();
            while !rest.is_empty() {
                match out.write(rest) {
                    Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                    // The disk is full, and will not be for ever.
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            thread::sleep(every);
        }
    });
    Ok(())
}

/// Appends the boot record to the data, durably, and gives the boot's number.
fn record_boot(args: &[String]) -> Result<u32, String> {
    let text = |e: io::Error| e.to_string();
    let path = data_path()?.join("grid-probe.boots");
    let earlier = fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .count();
    let number = u32::try_from(earlier).map_err(|e| e.to_string())? + 1;
    let mut names: Vec<_> = env::vars_os()
        .map(|(k, _)| k.to_string_lossy().into_owned())
        .collect();
    names.sort();
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|e| e.to_string())?;
    let escaped = |all: &[String]| {
        let all: Vec<String> = all.iter().map(|a| a.escape_default().to_string()).collect();
        all.join("\u{1f}")
    };
    let record = format!(
        "{}\t{number}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        env::var("SUTRA_NODE_ID").unwrap_or_default(),
        process::id(),
        start_time().unwrap_or(0),
        sys::uid(),
        at.as_millis(),
        escaped(args),
        escaped(&names),
    );
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(text)?;
    file.write_all(record.as_bytes()).map_err(text)?;
    file.sync_all().map_err(text)?;
    Ok(number)
}

/// Field 22 of `/proc/self/stat`, counted behind the last `)`: the name before it may hold anything.
fn start_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

fn descriptors() -> String {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return String::new();
    };
    let mut all: Vec<(u32, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?.display().to_string();
            // The directory that is being read is ours.
            (!target.ends_with(&format!("/{}/fd", process::id()))).then_some((number, target))
        })
        .collect();
    all.sort();
    all.iter()
        .map(|(number, target)| format!("{number} {target}\n"))
        .collect()
}

fn follow_signals() {
    loop {
        let number = sys::next_signal();
        line(&script::signal_line(number));
        let ignored = state()
            .ignored
            .lock()
            .is_ok_and(|all| all.contains(&number));
        if !ignored {
            thread::sleep(Duration::from_millis(
                state().linger_ms.load(Ordering::SeqCst),
            ));
            process::exit(0);
        }
    }
}

/// Between the probe and its orphan: leaves the session, makes the orphan and ends, so that nobody of the node is its
/// parent. Ignored signals stay ignored over an exec.
fn orphan_parent() {
    sys::leave_session_and_ignore_signals();
    let made = Command::new("/proc/self/exe")
        .arg("--orphan")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    process::exit(i32::from(made.is_err()));
}
