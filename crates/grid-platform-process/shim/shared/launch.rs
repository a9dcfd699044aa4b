//! The launch file: everything the shim needs to know to run one node, and no secret.

use super::policy::{Policy, Restart};
use super::record::crc32;
use std::fmt;

const HEAD: &str = "sutra-grid-launch";
const VERSION: &str = "1";
/// The length of the last pair: `end`, and a CRC-32 of all before it in eight hexadecimal digits.
const END: usize = 13;

/// The user that the program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups: exactly these.
    pub(crate) groups: Vec<u32>,
}

/// One node's start. Paths and values are bytes: anything but NUL. `PROTOCOL.md` says what each key means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The node's uid.
    pub(crate) uid: String,
    /// The generation of the start.
    pub(crate) generation: u64,
    /// Restarts counted before this start.
    pub(crate) restarts: u64,
    /// Absolute path of the program.
    pub(crate) program: Vec<u8>,
    /// Its arguments after argv[0].
    pub(crate) args: Vec<Vec<u8>>,
    /// Its environment: `NAME=VALUE`.
    pub(crate) env: Vec<Vec<u8>>,
    /// Variables whose value is a file under `secrets/`: name, file name.
    pub(crate) env_secrets: Vec<(Vec<u8>, Vec<u8>)>,
    /// Absolute path of its working directory.
    pub(crate) dir: Vec<u8>,
    /// The user it runs as; none: the shim's own.
    pub(crate) user: Option<User>,
    /// RLIMIT_NOFILE, soft and hard; none: inherited.
    pub(crate) nofile: Option<u64>,
    /// The `cgroup.procs` files of the node's own cgroups.
    pub(crate) cgroup_procs: Vec<Vec<u8>>,
    /// The signal that asks it to end.
    pub(crate) stop_signal: i32,
    /// From that signal to SIGKILL, in ms.
    pub(crate) grace_ms: u64,
    /// When it is started again.
    pub(crate) policy: Policy,
    /// The most bytes of log that are kept; none: all.
    pub(crate) log_max_bytes: Option<u64>,
    /// How long the first run is on trial, in ms: an end within it is final; none: it is not.
    pub(crate) trial_ms: Option<u64>,
}

/// Why a launch file was not written or not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LaunchError {
    /// A value carries a NUL byte, which neither this file nor execve can carry.
    Nul(&'static str),
    /// The file does not begin or end as it should.
    Frame,
    /// This key is unknown, or given more often than once.
    Key(String),
    /// This key is missing.
    Missing(&'static str),
    /// This key's value makes no sense.
    Value(&'static str),
}

impl fmt::Display for LaunchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::Nul(key) => write!(out, "`{key}` carries a NUL byte"),
            LaunchError::Frame => write!(
                out,
                "the launch file is cut short, changed, or not one of version {VERSION}"
            ),
            LaunchError::Key(key) => write!(out, "`{key}` is unknown or given twice"),
            LaunchError::Missing(key) => write!(out, "`{key}` is missing"),
            LaunchError::Value(key) => write!(out, "the value of `{key}` makes no sense"),
        }
    }
}

impl std::error::Error for LaunchError {}

impl Launch {
    /// The file's bytes.
    ///
    /// # Errors
    /// What `decode` would refuse, is refused.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, LaunchError> {
        let mut out = Writer::default();
        out.text(HEAD, VERSION)?;
        out.text("uid", &self.uid)?;
        out.number("generation", self.generation)?;
        out.number("restarts", self.restarts)?;
        out.bytes("program", &self.program)?;
        for it in &self.args {
            out.bytes("arg", it)?;
        }
        for it in &self.env {
            out.bytes("env", it)?;
        }
        for (name, file) in &self.env_secrets {
            out.bytes("env_secret", &[name, &b"="[..], file].concat())?;
        }
        out.bytes("dir", &self.dir)?;
        if let Some(user) = &self.user {
            out.number("user_uid", user.uid)?;
            out.number("user_gid", user.gid)?;
            for it in &user.groups {
                out.number("group", *it)?;
            }
        }
        if let Some(it) = self.nofile {
            out.number("nofile", it)?;
        }
        for it in &self.cgroup_procs {
            out.bytes("cgroup_procs", it)?;
        }
        out.number("stop_signal", self.stop_signal)?;
        out.number("grace_ms", self.grace_ms)?;
        out.text("restart", self.policy.restart.as_str())?;
        out.number("backoff_initial_ms", self.policy.backoff_initial_ms)?;
        out.number("backoff_max_ms", self.policy.backoff_max_ms)?;
        out.number("reset_after_ms", self.policy.reset_after_ms)?;
        if let Some(it) = self.policy.max_restarts {
            out.number("max_restarts", it)?;
        }
        if let Some(it) = self.log_max_bytes {
            out.number("log_max_bytes", it)?;
        }
        if let Some(it) = self.trial_ms {
            out.number("trial_ms", it)?;
        }
        let crc = crc32(&[&out.0]);
        out.text("end", &format!("{crc:08x}"))?;
        Launch::decode(&out.0)?;
        Ok(out.0)
    }

    /// The start that a file's bytes describe.
    ///
    /// # Errors
    /// A file that is cut short or changed, an unknown, doubled or missing key, and a value that makes no sense.
    pub(crate) fn decode(file: &[u8]) -> Result<Launch, LaunchError> {
        let (body, end) = file.split_last_chunk::<END>().ok_or(LaunchError::Frame)?;
        // The shim reads it at each restart, months later maybe: what a disk changed meanwhile is not run.
        if *end != *format!("end\0{:08x}\0", crc32(&[body])).as_bytes() {
            return Err(LaunchError::Frame);
        }
        let body = body
            .strip_prefix(b"sutra-grid-launch\x001\0")
            .ok_or(LaunchError::Frame)?;
        // What stands before `end` must itself be ended, or `end` is the tail of a value.
        let body = body.strip_suffix(b"\0").ok_or(LaunchError::Frame)?;
        let mut raw = Raw::default();
        let mut fields = body.split(|it| *it == 0);
        while let Some(key) = fields.next() {
            raw.take(key, fields.next().ok_or(LaunchError::Frame)?)?;
        }
        raw.finish()
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, key: &'static str, value: &[u8]) -> Result<(), LaunchError> {
        if value.contains(&0) {
            return Err(LaunchError::Nul(key));
        }
        for part in [key.as_bytes(), value] {
            self.0.extend_from_slice(part);
            self.0.push(0);
        }
        Ok(())
    }

    fn text(&mut self, key: &'static str, value: &str) -> Result<(), LaunchError> {
        self.bytes(key, value.as_bytes())
    }

    fn number(&mut self, key: &'static str, value: impl fmt::Display) -> Result<(), LaunchError> {
        self.text(key, &value.to_string())
    }
}

const SINGLE: [&str; 17] = [
    "uid",
    "generation",
    "restarts",
    "program",
    "dir",
    "user_uid",
    "user_gid",
    "nofile",
    "stop_signal",
    "grace_ms",
    "restart",
    "backoff_initial_ms",
    "backoff_max_ms",
    "reset_after_ms",
    "max_restarts",
    "log_max_bytes",
    "trial_ms",
];

/// The pairs as they were found: single keys by their place in `SINGLE`, lists in order.
#[derive(Default)]
struct Raw<'a> {
    single: [Option<&'a [u8]>; SINGLE.len()],
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    env_secrets: Vec<(Vec<u8>, Vec<u8>)>,
    groups: Vec<u32>,
    cgroup_procs: Vec<Vec<u8>>,
}

impl<'a> Raw<'a> {
    fn take(&mut self, key: &[u8], value: &'a [u8]) -> Result<(), LaunchError> {
        match key {
            b"arg" => self.args.push(value.to_vec()),
            b"env" => match value.iter().position(|it| *it == b'=') {
                Some(at) if at > 0 => self.env.push(value.to_vec()),
                _ => return Err(LaunchError::Value("env")),
            },
            b"env_secret" => self
                .env_secrets
                .push(env_secret(value).ok_or(LaunchError::Value("env_secret"))?),
            b"group" => self.groups.push(number("group", value)?),
            b"cgroup_procs" if is_absolute(value) => self.cgroup_procs.push(value.to_vec()),
            b"cgroup_procs" => return Err(LaunchError::Value("cgroup_procs")),
            _ => {
                let slot = SINGLE
                    .iter()
                    .position(|it| it.as_bytes() == key)
                    .and_then(|at| self.single.get_mut(at));
                match slot {
                    Some(slot @ None) => *slot = Some(value),
                    _ => return Err(LaunchError::Key(String::from_utf8_lossy(key).into_owned())),
                }
            }
        }
        Ok(())
    }

    fn optional(&self, key: &'static str) -> Option<&'a [u8]> {
        SINGLE
            .iter()
            .position(|it| *it == key)
            .and_then(|at| self.single.get(at).copied().flatten())
    }

    fn required(&self, key: &'static str) -> Result<&'a [u8], LaunchError> {
        self.optional(key).ok_or(LaunchError::Missing(key))
    }

    fn text(&self, key: &'static str) -> Result<&'a str, LaunchError> {
        std::str::from_utf8(self.required(key)?).map_err(|_| LaunchError::Value(key))
    }

    fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, LaunchError> {
        number(key, self.required(key)?)
    }

    fn maybe<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, LaunchError> {
        self.optional(key).map(|it| number(key, it)).transpose()
    }

    fn path(&self, key: &'static str) -> Result<Vec<u8>, LaunchError> {
        let path = self.required(key)?;
        if is_absolute(path) {
            Ok(path.to_vec())
        } else {
            Err(LaunchError::Value(key))
        }
    }

    fn finish(self) -> Result<Launch, LaunchError> {
        let user = match (self.optional("user_uid"), self.optional("user_gid")) {
            (None, None) if self.groups.is_empty() => None,
            (None, None) => return Err(LaunchError::Missing("user_uid")),
            _ => Some(User {
                uid: self.number("user_uid")?,
                gid: self.number("user_gid")?,
                groups: self.groups.clone(),
            }),
        };
        let stop_signal = self.number("stop_signal")?;
        if !(1..=64).contains(&stop_signal) {
            return Err(LaunchError::Value("stop_signal"));
        }
        Ok(Launch {
            uid: self.text("uid")?.to_owned(),
            generation: self.number("generation")?,
            restarts: self.number("restarts")?,
            program: self.path("program")?,
            dir: self.path("dir")?,
            user,
            nofile: self.maybe("nofile")?,
            stop_signal,
            grace_ms: self.number("grace_ms")?,
            policy: Policy {
                restart: Restart::parse(self.text("restart")?)
                    .ok_or(LaunchError::Value("restart"))?,
                backoff_initial_ms: self.number("backoff_initial_ms")?,
                backoff_max_ms: self.number("backoff_max_ms")?,
                reset_after_ms: self.number("reset_after_ms")?,
                max_restarts: self.maybe("max_restarts")?,
            },
            log_max_bytes: self.maybe("log_max_bytes")?,
            trial_ms: self.maybe("trial_ms")?,
            args: self.args,
            env: self.env,
            env_secrets: self.env_secrets,
            cgroup_procs: self.cgroup_procs,
        })
    }
}

fn number<T: std::str::FromStr>(key: &'static str, value: &[u8]) -> Result<T, LaunchError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|it| it.parse().ok())
        .ok_or(LaunchError::Value(key))
}

fn is_absolute(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
}

/// `NAME=FILE`, where FILE is one component of a path.
fn env_secret(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = value.iter().position(|it| *it == b'=')?;
    let (name, file) = (value.get(..at)?, value.get(at + 1..)?);
    let plain = !file.is_empty() && !file.contains(&b'/') && file != b"." && file != b"..";
    (plain && !name.is_empty()).then(|| (name.to_vec(), file.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Policy, Restart};
    use super::{END, Launch, LaunchError, User, crc32};

    fn full() -> Launch {
        Launch {
            uid: "u-1".to_owned(),
            generation: 4,
            restarts: 2,
            program: b"/bin/odd \xff name".to_vec(),
            args: vec![
                b"".to_vec(),
                b"a\nb".to_vec(),
                b"end".to_vec(),
                b"\xfe".to_vec(),
            ],
            env: vec![b"A=1".to_vec(), b"B=x=y\n".to_vec(), b"C=".to_vec()],
            env_secrets: vec![(b"TOKEN".to_vec(), b"token.txt".to_vec())],
            dir: b"/var/lib/n".to_vec(),
            user: Some(User {
                uid: 65_534,
                gid: 65_533,
                groups: vec![4, 5],
            }),
            nofile: Some(1024),
            cgroup_procs: vec![b"/sys/fs/cgroup/a/cgroup.procs".to_vec()],
            stop_signal: 15,
            grace_ms: 10_000,
            policy: Policy {
                restart: Restart::OnFailure,
                backoff_initial_ms: 100,
                backoff_max_ms: 30_000,
                reset_after_ms: 60_000,
                max_restarts: Some(5),
            },
            log_max_bytes: Some(1 << 20),
            trial_ms: Some(250),
        }
    }

    fn bare() -> Launch {
        Launch {
            args: vec![],
            env: vec![],
            env_secrets: vec![],
            user: None,
            nofile: None,
            cgroup_procs: vec![],
            log_max_bytes: None,
            trial_ms: None,
            policy: Policy {
                max_restarts: None,
                ..full().policy
            },
            ..full()
        }
    }

    #[test]
    fn a_launch_comes_back() {
        for it in [full(), bare()] {
            assert_eq!(Launch::decode(&it.encode().unwrap()), Ok(it));
        }
    }

    #[test]
    fn any_cut_is_seen() {
        let file = full().encode().unwrap();
        for len in 0..file.len() {
            assert!(Launch::decode(&file[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let file = full().encode().unwrap();
        for bit in 0..8 * file.len() {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Launch::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    /// Changes what stands before the end, and seals it again.
    fn check(change: impl Fn(Vec<u8>) -> Vec<u8>, expect: LaunchError) {
        let file = bare().encode().unwrap();
        let body = change(file[..file.len() - END].to_vec());
        let end = format!("end\0{:08x}\0", crc32(&[&body]));
        assert_eq!(
            Launch::decode(&[&body, end.as_bytes()].concat()),
            Err(expect)
        );
    }

    fn insert(pair: &'static [u8]) -> impl Fn(Vec<u8>) -> Vec<u8> {
        move |file| [&file, pair].concat()
    }

    fn replace(from: &'static str, to: &'static str) -> impl Fn(Vec<u8>) -> Vec<u8> {
        move |file| {
            let at = file
                .windows(from.len())
                .position(|it| it == from.as_bytes())
                .unwrap();
            [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        check(
            insert(b"colour\0green\0"),
            LaunchError::Key("colour".to_owned()),
        );
        check(insert(b"uid\0twice\0"), LaunchError::Key("uid".to_owned()));
        check(insert(b"env\0novalue\0"), LaunchError::Value("env"));
        check(insert(b"env\0=v\0"), LaunchError::Value("env"));
        check(
            insert(b"env_secret\0A=../x\0"),
            LaunchError::Value("env_secret"),
        );
        check(
            insert(b"env_secret\0A=..\0"),
            LaunchError::Value("env_secret"),
        );
        check(insert(b"env_secret\0A\0"), LaunchError::Value("env_secret"));
        check(insert(b"group\x007\0"), LaunchError::Missing("user_uid"));
        check(insert(b"user_uid\x007\0"), LaunchError::Missing("user_gid"));
        check(insert(b"nofile\0many\0"), LaunchError::Value("nofile"));
        check(
            insert(b"cgroup_procs\0rel/cgroup.procs\0"),
            LaunchError::Value("cgroup_procs"),
        );
        check(
            insert(b"log_max_bytes\0-1\0"),
            LaunchError::Value("log_max_bytes"),
        );
        check(replace("launch\x001", "launch\x002"), LaunchError::Frame);
        check(
            replace("stop_signal\x0015", "stop_signal\x0065"),
            LaunchError::Value("stop_signal"),
        );
        check(
            replace("on-failure", "sometimes"),
            LaunchError::Value("restart"),
        );
        check(replace("dir\0/var", "dir\0var"), LaunchError::Value("dir"));
        check(
            replace("grace_ms\x0010000\0", ""),
            LaunchError::Missing("grace_ms"),
        );
    }

    #[test]
    fn nul_is_refused_before_it_is_written() {
        assert_eq!(
            Launch {
                args: vec![b"a\0b".to_vec()],
                ..bare()
            }
            .encode(),
            Err(LaunchError::Nul("arg"))
        );
        assert_eq!(
            Launch {
                program: b"relative".to_vec(),
                ..bare()
            }
            .encode(),
            Err(LaunchError::Value("program"))
        );
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(LaunchError::Missing("dir").to_string(), "`dir` is missing");
    }
}
