//! Shims that this adapter did not start: of an earlier version, of a later one, hung, and those whose file was
//! replaced beneath them. `golden/` holds what version 1 wrote and said, word by word: a change that an old shim could
//! not follow fails here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use common::{
    Place, SLEEP, census, clean, crc32, eventually, exists, id, kill_9, parent, quick, sh, wait_for,
};
use grid_platform_api::{DataPolicy, ErrorKind, Platform, RestartMode, StopPolicy, StopSignal};

/// Another uid for each node here: what is swept of one is not another's.
fn new_uid() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{:08x}{:024x}",
        NEXT.fetch_add(1, Ordering::Relaxed),
        std::process::id()
    )
}

const INTENT: &str = include_str!("golden/v1/intent.json");
const RECORD: &str = include_str!("golden/v1/record.txt");

fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    text.trim().to_owned()
}

fn start_time(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let tail = stat.rsplit_once(')').unwrap().1;
    tail.split_whitespace().nth(19).unwrap().to_owned()
}

/// A program that runs as the node's, killed when dropped.
struct Program(Child);

impl Program {
    fn start(uid: &str) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").env("SUTRA_NODE_UID", uid);
        Self(command.spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node's directory as a shim of version 1 left or has it.
struct Old {
    dir: PathBuf,
    uid: String,
    program: Program,
    /// The process that the record calls its shim.
    shim: u32,
}

impl Old {
    /// Lays it out in the state of `place`, which has been opened before.
    fn lay_out(place: &Place, shim: u32) -> Self {
        let (dir, uid) = (place.node_dir("old"), new_uid());
        fs::create_dir(&dir).unwrap();
        let install = fs::read_to_string(place.config.state_dir.join("install.json")).unwrap();
        let owner = install.split_once("\"owner\": \"").unwrap().1;
        let data = place.data("old");
        fs::create_dir_all(&data).unwrap();
        let marker = format!(
            r#"{{"owner":"{}","node_id":"old","uid":"{uid}"}}"#,
            &owner[..32]
        );
        fs::write(data.join(".sutra-grid"), marker).unwrap();
        fs::write(data.join("precious"), "x").unwrap();
        let intent = INTENT
            .replace("{owner}", &owner[..32])
            .replace("{uid}", &uid)
            .replace("{data}", data.to_str().unwrap());
        fs::write(dir.join("intent.json"), intent.trim_end()).unwrap();
        fs::write(dir.join("log"), "the first line\nthe second line\n").unwrap();
        let old = Self {
            dir,
            program: Program::start(&uid),
            uid,
            shim,
        };
        old.record(1, "1", "starting");
        old.record(2, "1", "running");
        old
    }

    /// Writes a record as version 1 does, with another version's number in it if need be.
    fn record(&self, seq: u64, version: &str, state: &str) {
        let pid = self.program.id();
        let runs = state == "running";
        let (pid, start) = if runs {
            (pid, start_time(pid))
        } else {
            (0, "0".to_owned())
        };
        let text = RECORD
            .replace("{version}", version)
            .replace("{boot_id}", &boot_id())
            .replace("{uid}", &self.uid)
            .replace("{shim_pid}", &self.shim.to_string())
            .replace("{shim_start}", &start_time(self.shim))
            .replace("{pid}", &pid.to_string())
            .replace("{pid_start}", &start)
            .replace("{state}", state);
        let mut slot = vec![0; 4096];
        slot[..8].copy_from_slice(b"SGRECRD1");
        slot[8..16].copy_from_slice(&seq.to_le_bytes());
        slot[16..20].copy_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        slot[24..24 + text.len()].copy_from_slice(text.as_bytes());
        let crc = crc32(&[&slot[8..20], text.as_bytes()].concat());
        slot[20..24].copy_from_slice(&crc.to_le_bytes());
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.dir.join("record"))
            .unwrap();
        file.set_len(8192).unwrap();
        file.write_all_at(&slot, seq % 2 * 4096).unwrap();
    }

    /// Locks the node as a shim does.
    fn lock(&self) -> File {
        let lock = File::create(self.dir.join("lock")).unwrap();
        lock.try_lock().unwrap();
        lock
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.dir.join("sock")).unwrap()
    }
}

/// What a fake shim was told, line by line.
type Heard = Arc<Mutex<Vec<String>>>;

/// Answers every client on the socket by `answer`, which gets the line and gives what is said; `None` hangs up.
fn serve(
    listener: UnixListener,
    greeting: &'static str,
    answer: impl Fn(&str) -> Option<String> + Clone + Send + 'static,
) -> Heard {
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    let serve_one = move |mut stream: UnixStream, told: Heard| {
        // A client that hangs up is no fault of the shim's.
        let _ = stream.write_all(greeting.as_bytes());
        let reader = BufReader::new(stream.try_clone().unwrap());
        for line in reader.lines().map_while(Result::ok) {
            told.lock().unwrap().push(line.clone());
            let Some(said) = answer(&line) else { return };
            if stream.write_all(said.as_bytes()).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (serve_one, told) = (serve_one.clone(), Arc::clone(&told));
            thread::spawn(move || serve_one(stream, told));
        }
    });
    heard
}

#[tokio::test]
async fn a_shim_of_version_1_is_watched_and_stopped_and_its_node_started_again() {
    let place = Place::new();
    drop(place.open().await);
    let old = Arc::new(Mutex::new(Old::lay_out(&place, std::process::id())));
    let lock = Mutex::new(Some(old.lock().unwrap().lock()));
    let listener = old.lock().unwrap().listen();
    let (shim, lock) = (Arc::clone(&old), Arc::new(lock));
    let heard = serve(listener, "sutra-grid-shim 1\n", move |line| match line {
        "watch" => Some("changed 2\n".to_owned()),
        "ping" => Some("pong\n".to_owned()),
        "stop" => {
            let mut old = shim.lock().unwrap();
            old.program.0.kill().unwrap();
            old.program.0.wait().unwrap();
            old.record(3, "1", "stopping");
            old.record(4, "1", "stopped");
            fs::remove_file(old.dir.join("sock")).unwrap();
            drop(lock.lock().unwrap().take());
            Some("stopped\n".to_owned())
        }
        _ => Some("unknown\n".to_owned()),
    });

    let platform = place.open().await;
    let node = platform.get_node_status(&id("old")).await.unwrap();
    let (pid, uid) = {
        let old = old.lock().unwrap();
        (old.program.id(), old.uid.clone())
    };
    assert_eq!((node.state.as_str(), node.pid), ("running", Some(pid)));
    assert_eq!((node.uid.as_str(), node.restarts), (uid.as_str(), 3));
    assert!(platform.is_node_alive(&id("old")).await.unwrap());
    let log = platform.get_logs(&id("old"), 10).await.unwrap();
    assert_eq!(log, ["the first line", "the second line"]);
    // The same request finds it as it is.
    let config = sh("old", SLEEP).build().unwrap();
    let same = platform.spawn_node(config.clone()).await.unwrap();
    assert_eq!((same.uid, same.pid), (node.uid.clone(), node.pid));
    platform.stop_node(&id("old")).await.unwrap();
    let node = platform.get_node_status(&id("old")).await.unwrap();
    assert_eq!(node.state.as_str(), "stopped");
    let words = heard.lock().unwrap().clone();
    assert!(words.iter().any(|it| it == "watch") && words.iter().any(|it| it == "stop"));
    assert!(
        words.iter().all(|it| it == "watch" || it == "stop"),
        "{words:?}"
    );

    // Its successor is of this version, and goes on from its record and log.
    let node = platform.spawn_node(config).await.unwrap();
    assert_eq!(node.uid.as_str(), uid);
    assert_eq!(census(&uid), [node.pid.unwrap()]);
    let log = platform.get_logs(&id("old"), 10).await.unwrap();
    assert_eq!(log.len(), 2);
    clean(&platform).await;
}

/// Everything that an answer of `stop_node` may take: two greetings that never come.
async fn a_shim_of_a_later_version() {
    let place = Place::new();
    drop(place.open().await);
    let old = Old::lay_out(&place, std::process::id());
    old.record(3, "2", "running");
    old.record(4, "2", "running");
    let _lock = old.lock();
    let heard = serve(old.listen(), "sutra-grid-shim 2\n", |_| None);
    let platform = place.open().await;
    let node = platform.get_node_status(&id("old")).await.unwrap();
    assert_eq!((node.state.as_str(), node.pid), ("pending", None));
    let error = platform.stop_node(&id("old")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unconfirmed, "{error}");
    assert!(error.to_string().contains("does not answer"), "{error}");
    assert!(error.hint().unwrap().contains("sutra-grid-old"), "{error}");
    for data in [DataPolicy::Keep, DataPolicy::Purge] {
        // The stop that was asked for stands, and a removal has to wait for it too.
        let node = id("old");
        let removal = platform.remove_node(&node, data);
        let removal = tokio::time::timeout(Duration::from_millis(200), removal).await;
        assert!(removal.is_err(), "{removal:?}");
    }
    assert_eq!(census(&old.uid), [old.program.id()], "it is left in peace");
    assert!(place.data("old").join("precious").exists());
    assert!(
        heard.lock().unwrap().is_empty(),
        "nothing is said to who greets otherwise"
    );
}

/// One that was halted, and one that never answered at all: both are ended, by the process that the record names.
async fn a_shim_that_hangs(halted: bool) {
    let place = Place::new();
    let platform = place.open().await;
    let stop = StopPolicy {
        signal: StopSignal::Term,
        grace: Duration::from_millis(10),
    };
    let mut impostor = None;
    let uid = if halted {
        let config = sh("old", SLEEP).stop(stop).build().unwrap();
        let node = platform.spawn_node(config).await.unwrap();
        let shim = parent(node.pid.unwrap()).to_string();
        let status = Command::new("kill").args(["-STOP", &shim]).status();
        assert!(status.unwrap().success());
        node.uid.to_string()
    } else {
        String::new()
    };
    drop(platform);
    if !halted {
        // It holds the lock and the socket, and never takes a connection.
        let dir = place.node_dir("old");
        fs::create_dir(&dir).unwrap();
        let lock = File::create(dir.join("lock")).unwrap();
        lock.try_lock().unwrap();
        let socket = UnixListener::bind(dir.join("sock")).unwrap();
        let hung = child_of_the_adapter(place.dir.path(), |command| {
            command
                .stdin(Stdio::from(lock))
                .stdout(Stdio::from(OwnedFd::from(socket)));
        });
        fs::rename(&dir, dir.with_extension("aside")).unwrap();
        let old = Old::lay_out(&place, hung);
        for name in ["lock", "sock"] {
            fs::rename(dir.with_extension("aside").join(name), dir.join(name)).unwrap();
        }
        fs::remove_dir(dir.with_extension("aside")).unwrap();
        impostor = Some((old, hung));
    }
    let uid = impostor.as_ref().map_or(uid, |(old, _)| old.uid.clone());
    let platform = place.open().await;
    let node = platform.get_node_status(&id("old")).await.unwrap();
    assert_eq!(node.state.as_str(), "running");
    platform.stop_node(&id("old")).await.unwrap();
    assert_eq!(census(&uid), [0; 0]);
    let node = platform.get_node_status(&id("old")).await.unwrap();
    assert!(node.state.is_ended(), "{:?}", node.state);
    if let Some((_, hung)) = impostor {
        assert!(!exists(hung) || zombie(hung), "the hung one was ended");
    }
    clean(&platform).await;
}

#[tokio::test]
async fn shims_that_cannot_be_spoken_with_are_ended_by_their_record_or_left_in_peace() {
    tokio::join!(
        a_shim_of_a_later_version(),
        a_shim_that_hangs(true),
        a_shim_that_hangs(false),
        a_shim_that_talks_nonsense(),
    );
}

/// Whatever it says, what is believed is the record; and a stop ends the process that it names.
async fn a_shim_that_talks_nonsense() {
    let place = Place::new();
    drop(place.open().await);
    let hung = child_of_the_adapter(place.dir.path(), |_| {});
    let old = Old::lay_out(&place, hung);
    let lock = old.lock();
    let noise = "\u{0}\u{1}stopped\nsutra-grid-shim 1\nchanged 18446744073709551616\nstopped\n";
    serve(old.listen(), noise, |_| Some("stopped\n".repeat(500)));
    let platform = place.open().await;
    let node = platform.get_node_status(&id("old")).await.unwrap();
    assert_eq!(
        (node.state.as_str(), node.pid),
        ("running", Some(old.program.id()))
    );
    let node = id("old");
    let stopping = platform.stop_node(&node);
    // Killed, it gives its lock back; this one's is held by the test.
    let release = async {
        // No sooner than its stop may take, and that is most of what `eventually` waits for.
        while exists(hung) && !zombie(hung) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(lock);
    };
    let (stopped, ()) = tokio::join!(stopping, release);
    stopped.unwrap();
    assert_eq!(census(&old.uid), [0; 0]);
    drop(old);
    clean(&platform).await;
}

/// A process that the adapter takes for a shim that it started itself, and reaps: nobody else may.
fn child_of_the_adapter(place: &Path, dress: impl FnOnce(&mut Command)) -> u32 {
    let mut command = Command::new("sleep");
    command.arg("1000").current_dir(place);
    dress(&mut command);
    command.spawn().unwrap().id()
}

fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|it| it.contains(") Z "))
}

fn shim_files(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.join("bin")).unwrap();
    entries.map(|it| it.unwrap().path()).collect()
}

#[tokio::test]
async fn an_upgrade_replaces_the_shims_file_and_no_running_shim() {
    let place = Place::new();
    let platform = place.open().await;
    let config = sh("a", "echo x >> starts; echo hello; exec sleep 1000")
        .restart(quick(RestartMode::Always))
        .build()
        .unwrap();
    let node = platform.spawn_node(config.clone()).await.unwrap();
    let (pid, shim) = (node.pid.unwrap(), parent(node.pid.unwrap()));
    drop(platform);
    // As if it had been started by another build: its file has another name, which the new agent takes away.
    let [file] = &shim_files(&place.config.state_dir)[..] else {
        panic!("one shim's file");
    };
    fs::rename(file, file.with_file_name("shim-0000000000000000")).unwrap();

    let platform = place.open().await;
    assert_eq!(
        shim_files(&place.config.state_dir),
        std::slice::from_ref(file)
    );
    let exe = fs::read_link(format!("/proc/{shim}/exe")).unwrap();
    assert!(exe.to_string_lossy().ends_with("(deleted)"), "{exe:?}");
    let now = platform.get_node_status(&id("a")).await.unwrap();
    assert_eq!(
        (now.uid, now.pid, now.restarts),
        (node.uid.clone(), Some(pid), 0)
    );
    let log = place.node_dir("a").join("log");
    let said = |text: &str| fs::read_to_string(&log).unwrap() == text;
    eventually("a line", || said("hello\n")).await;
    assert_eq!(platform.get_logs(&id("a"), 5).await.unwrap(), ["hello"]);
    // The old shim still does what it is for.
    kill_9(pid);
    let now = wait_for(&platform, "a", |it| {
        it.state.is_running() && it.pid != Some(pid)
    })
    .await;
    assert_eq!((now.restarts, parent(now.pid.unwrap())), (1, shim));
    eventually("the second line", || said("hello\nhello\n")).await;
    assert_eq!(
        platform.get_logs(&id("a"), 5).await.unwrap(),
        ["hello", "hello"]
    );
    platform.stop_node(&id("a")).await.unwrap();
    eventually("the old shim's end", || !exists(shim)).await;
    assert_eq!(census(node.uid.as_str()), [0; 0]);
    let again = platform.spawn_node(config).await.unwrap();
    let exe = fs::read_link(format!("/proc/{}/exe", parent(again.pid.unwrap()))).unwrap();
    assert_eq!(exe, *file);
    clean(&platform).await;
}
