//! What the tests on an engine share: the engine, images made of nothing, a place of their own, and eyes that do not ask
//! the adapter.
#![allow(
    dead_code,
    reason = "each test file uses its part, and all of it is for tests"
)]

pub(crate) mod programs;
pub(crate) mod proxy;

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
};

use grid_platform_api::{NodeId, Platform, Program};
use grid_platform_docker::{Allow, DockerConfig, DockerPlatform, Pull};
use grid_platform_testing::{
    BadProgram, Boot, Failed, HostPlace, LiveProcess, Outcome, environment, parse_boot, probe,
};
use grid_testbed::{Api, Image, Kind, Tar};
use serde_json::{Value, json};

/// Little enough to be overrun by a test.
pub(crate) const LOG_BUDGET: u64 = 2 * 1024 * 1024;

/// A user that tests may name: an image of the probe alone has no names of users.
pub(crate) const OTHER_USER: u32 = 65_534;

/// The engine of the tests, without what killed runs left on it.
///
/// # Errors
/// Why there is none.
pub(crate) fn engine(kind: Kind) -> Outcome<Api> {
    // Once for all tests of this program, which has one engine.
    static FOUND: OnceLock<Result<Api, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let api = grid_testbed::find(kind)?;
        grid_testbed::sweep_dead(&api).map(|_| api)
    });
    found.clone().map_err(|why| {
        Failed::new(format!(
            "{why}; run `cargo xtask testbed up {}`",
            kind.name()
        ))
    })
}

/// Brings an image to the engine under a name of its content's, and gives the name.
///
/// # Errors
/// The engine's words.
pub(crate) fn image(api: &Api, name: &str, image: Image) -> Outcome<String> {
    static LOADED: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap_or_else(|it| it.into_inner());
    let key = format!("{} {name}", api.host());
    if let Some(reference) = loaded.get(&key) {
        return Ok(reference.clone());
    }
    // A name with a host is the same to every engine; under this one nothing is pulled. Test programs of other versions of
    // the tree may use the same engine at the same time.
    let mut sum = DefaultHasher::new();
    image.clone().archive(name).hash(&mut sum);
    let reference = format!("localhost/sutra-grid-test/{name}:{:016x}", sum.finish());
    image.load(api, &reference).map_err(Failed::new)?;
    loaded.insert(key, reference.clone());
    Ok(reference)
}

/// Set in the environment of a test that runs in a mount namespace of its own.
const APART: &str = "SUTRA_GRID_TEST_APART";

/// Whether this is the run of a test in a mount namespace of its own, where it can mount what the engine does not see. Elsewhere
/// such a run is made, and has to succeed.
///
/// # Errors
/// When it cannot be made, or fails.
pub(crate) fn is_apart(test: &str) -> Outcome<bool> {
    if std::env::var_os(APART).is_some() {
        return Ok(true);
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(APART, "yes")
        .status()?;
    match status.success() {
        true => Ok(false),
        false => Err(Failed::new(format!("`{test}` fails apart: {status}"))),
    }
}

/// The image that holds the probe and nothing else.
///
/// # Errors
/// The engine's words.
pub(crate) fn probe_image(api: &Api) -> Outcome<String> {
    let layer = Tar::default().file("grid-probe", 0o755, probe::BYTES);
    image(api, "probe", Image::new(layer).entrypoint(&["/grid-probe"]))
}

/// An image whose entrypoint cannot be executed.
///
/// # Errors
/// The engine's words.
pub(crate) fn bad_image(api: &Api, which: BadProgram) -> Outcome<String> {
    let garbage = b"\x01\x02 this is no program\n";
    let layer =
        Tar::default()
            .file("not-executable", 0o644, garbage)
            .file("bad-format", 0o755, garbage);
    let name = match which {
        BadProgram::Missing => "missing",
        BadProgram::NotExecutable => "not-executable",
        BadProgram::BadFormat => "bad-format",
        BadProgram::NoImage => return Ok("localhost/sutra-grid-test/nowhere:none".to_owned()),
    };
    image(
        api,
        name,
        Image::new(layer).entrypoint(&[&format!("/{name}")]),
    )
}

/// A state and data of one test on an engine, and an eye on what is there. What is left when it is dropped is deleted.
pub(crate) struct Place {
    pub(crate) api: Api,
    pub(crate) host: HostPlace,
    pub(crate) ports: (u16, u16),
    owners: Mutex<Vec<String>>,
}

impl Place {
    /// A place with nothing in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(api: &Api) -> Outcome<Self> {
        let host = HostPlace::new()?;
        Ok(Self {
            api: api.clone(),
            ports: host.new_ports(),
            host,
            owners: Mutex::new(Vec::new()),
        })
    }

    /// Settings of an adapter that allows what tests ask for, with its state and data in this directory.
    pub(crate) fn config(&self, home: &Path, ports: (u16, u16)) -> DockerConfig {
        let mut config = DockerConfig {
            host: Some(self.api.host().to_owned()),
            images: Allow::Any,
            pull: Pull::Never,
            users: vec![OTHER_USER.to_string()],
            storage_roots: vec![self.host.path().to_owned()],
            log_max_bytes: LOG_BUDGET,
            port_range: ports,
            ..DockerConfig::new(home.join("state"), home.join("data"))
        };
        let own = rustix::process::getuid();
        if !own.is_root() {
            // Only root can give data to another user.
            let group = rustix::process::getgid().as_raw();
            config.user = format!("{}:{group}", own.as_raw());
        }
        config
    }

    /// The settings of the place's own adapter.
    pub(crate) fn own_config(&self) -> DockerConfig {
        self.config(self.host.path(), self.ports)
    }

    /// Opens an adapter, whose owner is noted.
    ///
    /// # Errors
    /// The adapter's.
    pub(crate) async fn open(&self, config: DockerConfig) -> Outcome<DockerPlatform> {
        let state = config.state_dir.join("install.json");
        let platform = DockerPlatform::open(config).await?;
        // Not by a probe, which asks an engine more than each test has to wait for.
        let state = fs::read_to_string(state)?;
        let owner = state
            .lines()
            .find_map(|line| line.trim().strip_prefix("\"owner\": \"")?.split('"').next())
            .ok_or("a state without an owner")?
            .to_owned();
        let mut owners = self.owners();
        if !owners.contains(&owner) {
            grid_testbed::claim(&self.api, &owner).map_err(Failed::new)?;
            owners.push(owner);
        }
        Ok(platform)
    }

    /// Moves what is in the place out of the engine's sight: it is found where it was, by this process alone, which has to run
    /// [apart](is_apart).
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn hide(&self) -> Outcome {
        let (shown, hidden) = (self.host.path(), self.hidden());
        fs::create_dir(&hidden)?;
        fs::set_permissions(&hidden, fs::metadata(shown)?.permissions())?;
        move_all(shown, &hidden)?;
        run(Command::new("mount").arg("--bind").arg(hidden).arg(shown))
    }

    /// Undoes [`hide`](Self::hide).
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn show(&self) -> Outcome {
        let (shown, hidden) = (self.host.path(), self.hidden());
        // Lazily: an adapter that was just dropped may still have its state open, and no event tells when it has not.
        run(Command::new("umount").arg("--lazy").arg(shown))?;
        move_all(&hidden, shown)?;
        Ok(fs::remove_dir(hidden)?)
    }

    fn hidden(&self) -> PathBuf {
        self.host.path().with_extension("hidden")
    }

    /// The volumes that the engine has, by their names.
    ///
    /// # Errors
    /// The engine's words.
    pub(crate) fn volumes(&self) -> Outcome<Vec<(String, PathBuf)>> {
        let all = self.api.get("/volumes").map_err(Failed::new)?;
        let all = all["Volumes"].as_array().into_iter().flatten();
        let pair = |it: &Value| {
            let name = it["Name"].as_str()?.to_owned();
            Some((name, it["Mountpoint"].as_str()?.into()))
        };
        Ok(all.filter_map(pair).collect())
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.owners.lock().unwrap_or_else(|it| it.into_inner())
    }

    /// The containers of a node, as the engine lists them.
    ///
    /// # Errors
    /// The engine's words.
    pub(crate) fn containers(&self, id: &NodeId) -> Outcome<Vec<Value>> {
        let all = self.api.get("/containers/json?all=true");
        let all = all.map_err(Failed::new)?;
        let all = all.as_array().ok_or("no list of containers")?;
        let is_its = |it: &&Value| it["Labels"]["sutra.node_id"] == json!(id.as_str());
        Ok(all.iter().filter(is_its).cloned().collect())
    }

    /// The node's processes: those in the control groups of its containers, and those whose environment names it.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub(crate) fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        let containers = self.containers(id)?;
        let ids: Vec<&str> = containers
            .iter()
            .filter_map(|it| it["Id"].as_str())
            .collect();
        let name = format!("SUTRA_NODE_ID={id}").into_bytes();
        let of_the_node = |it: &grid_testbed::Process| {
            // Podman's watcher of a container is no part of it.
            it.name != "conmon"
                && (ids.iter().any(|id| it.is_in_group(id))
                    || environment(it.pid)
                        .is_ok_and(|it| it.split(|b| *b == 0).any(|it| it == name)))
        };
        let live = grid_testbed::processes(of_the_node);
        let seen = |it: grid_testbed::Process| LiveProcess {
            pid: it.pid,
            start_time: it.start_time,
            command: it.name,
        };
        Ok(live.into_iter().map(seen).collect())
    }

    /// The probe's records of the node, in the place and in the volumes that are named after it.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        let mut boots = self.host.boots(id)?;
        // This one alone: a list of all takes an engine that makes and removes others longer.
        let asked = format!("/volumes/sutra-grid-{id}");
        let volume = self.api.send("GET", &asked, "application/json", b"");
        let volume = match volume.map_err(Failed::new)? {
            none if none.status == 404 => return Ok(boots),
            answer => answer.json().map_err(Failed::new)?,
        };
        let place = volume["Mountpoint"]
            .as_str()
            .ok_or("a volume without a place")?;
        let text = match fs::read_to_string(Path::new(place).join("grid-probe.boots")) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(boots),
            text => text?,
        };
        for line in text.lines() {
            let (of, boot) = parse_boot(line).ok_or("a broken boot record")?;
            if of == id.as_str() {
                boots.push(boot);
            }
        }
        Ok(boots)
    }

    /// The probe as a program of the engine.
    ///
    /// # Errors
    /// The engine's words.
    pub(crate) fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        Ok(Program::image(
            probe_image(&self.api)?,
            actions.iter().copied(),
        ))
    }

    /// Makes a file in a folder of the node's user: one of another's the node could not write to.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn put_file(&self, path: &Path) -> Outcome {
        let dir = path.parent().ok_or("a file without a folder")?;
        fs::create_dir_all(dir)?;
        fs::write(path, "kept")?;
        let user = self.own_config().user;
        let (user, group) = user.split_once(':').ok_or("a user without a group")?;
        let number = |text: &str| text.parse::<u32>().map_err(|e| e.to_string());
        std::os::unix::fs::chown(dir, Some(number(user)?), Some(number(group)?))?;
        Ok(())
    }

    /// Deletes what is left of the test on the engine, and names it.
    ///
    /// # Errors
    /// Names what was left.
    pub(crate) fn clean_up(&self) -> Outcome {
        let owners = std::mem::take(&mut *self.owners());
        let mut left = Vec::new();
        for owner in owners {
            let swept = grid_testbed::sweep(&self.api, &owner).map_err(Failed::new)?;
            left.extend(swept.into_iter().filter(|it| !is_kept_data(it)));
            grid_testbed::release(&owner);
        }
        for home in [self.host.path().to_owned(), self.host.stranger()] {
            left.extend(secrets_in(&home.join("state")));
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(Failed::new(format!("was left behind: {}", left.join(", "))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that panics comes by here only.
        let _ = self.clean_up();
        if self.hidden().exists() {
            let _ = self.show();
        }
    }
}

fn move_all(from: &Path, to: &Path) -> Outcome {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Outcome {
    let status = command.status()?;
    match status.success() {
        true => Ok(()),
        false => Err(Failed::new(format!("{command:?} ended with {status}"))),
    }
}

/// A volume of data is what a test kept on purpose; one of secrets, which has a dot in its name, nobody can keep.
fn is_kept_data(left: &str) -> bool {
    left.starts_with("volume ") && !left.contains('.')
}

/// The folders of secrets in a state that are there.
fn secrets_in(state: &Path) -> Vec<String> {
    let entries = fs::read_dir(state.join("secrets")).into_iter().flatten();
    let shown = |it: PathBuf| format!("secrets in `{}`", it.display());
    entries.flatten().map(|it| shown(it.path())).collect()
}

/// As the suite takes platforms.
pub(crate) fn shared(platform: DockerPlatform) -> Arc<dyn Platform> {
    Arc::new(platform)
}
