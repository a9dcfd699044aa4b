//! The actions of the probe: their grammar, and the texts that both sides of a test must agree on. Used by the probe
//! itself, by the simulated probe of `MemoryPlatform` and by the suite.

/// One thing that the probe does or answers. Written as `verb` or `verb=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// `say=TEXT`: a line to standard output.
    Say(String),
    /// `err=TEXT`: a line to standard error.
    Err(String),
    /// `lines=FROM-TO`: the lines `line FROM` to `line TO` to standard output.
    Lines(u64, u64),
    /// `count=MS`: from now on a line `count BOOT NUMBER` every so often, the numbers from 1. A line that a full disk takes
    /// only a part of is gone on with until it is whole, so that none is missing that was begun.
    Count(u64),
    /// `raw=HEX`: these bytes and a line feed to standard output.
    Raw(Vec<u8>),
    /// `giant=BYTES`: one line of so many bytes, a to z over and over.
    Giant(usize),
    /// `flood=BYTES`: numbered lines of 100 bytes until there are so many bytes.
    Flood(u64),
    /// `exit=CODE`: ends at once.
    Exit(i32),
    /// `signal=NUMBER`: ends itself by this signal.
    Signal(i32),
    /// `wait=MS`: does nothing for so long.
    Wait(u64),
    /// `ignore=NUMBER`: from now on this signal is noted and not followed.
    Ignore(i32),
    /// `linger=MS`: from now on takes so long to end when it is asked to.
    Linger(u64),
    /// `orphan`: leaves a process behind that is of another session, has no parent of the node, and ignores signals.
    Orphan,
    /// `eat=MIB`: takes and touches so much memory, 1 MiB at a time.
    Eat(usize),
    /// `burn=MS`: uses so much processor time.
    Burn(u64),
    /// `put=KEY:VALUE`: writes a file into its data, durably.
    Put(String, String),
    /// `get=KEY`: answers with that file, or with `absent`.
    Get(String),
    /// `healthy=yes` or `healthy=no`: what `/healthz` answers from now on: 200 or 503.
    Healthy(bool),
    /// `listen`: binds its ports now; otherwise it does when its arguments are done.
    Listen,
    /// `deaf`: never binds its ports.
    Deaf,
    /// `upto=N`: the next action is done at the first N boots only.
    UpTo(u32),
    /// `boot`: answers with the number of this boot.
    Boot,
    /// `env`: answers with its environment, a `NAME=VALUE` a line.
    Env,
    /// `argv`: answers with its arguments, one a line.
    Argv,
    /// `fds`: answers with the descriptors it was started with, a `NUMBER TARGET` a line.
    Fds,
    /// `cwd`: answers with its working directory.
    Cwd,
    /// `nofile`: answers with its soft limit of open descriptors.
    Nofile,
    /// `secret=NAME`: answers with the octal mode of the secret's file, a space and its content.
    Secret(String),
    /// `note=TEXT`: does nothing; for an argument to be looked at.
    Note(String),
}

impl Action {
    /// Reads one action.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (verb, value) = text.split_once('=').unwrap_or((text, ""));
        let own = || value.to_owned();
        Ok(match verb {
            "say" => Self::Say(own()),
            "err" => Self::Err(own()),
            "lines" => {
                let (from, to) = value.split_once('-').ok_or("`lines` wants FROM-TO")?;
                Self::Lines(number(from)?, number(to)?)
            }
            "count" => Self::Count(number(value)?),
            "raw" => Self::Raw(unhex(value)?),
            "giant" => Self::Giant(number(value)?),
            "flood" => Self::Flood(number(value)?),
            "exit" => Self::Exit(number(value)?),
            "signal" => Self::Signal(number(value)?),
            "wait" => Self::Wait(number(value)?),
            "ignore" => Self::Ignore(number(value)?),
            "linger" => Self::Linger(number(value)?),
            "orphan" => Self::Orphan,
            "eat" => Self::Eat(number(value)?),
            "burn" => Self::Burn(number(value)?),
            "put" => {
                let (key, value) = value.split_once(':').ok_or("`put` wants KEY:VALUE")?;
                Self::Put(file_name(key)?, value.to_owned())
            }
            "get" => Self::Get(file_name(value)?),
            "healthy" => Self::Healthy(value == "yes"),
            "listen" => Self::Listen,
            "deaf" => Self::Deaf,
            "upto" => Self::UpTo(number(value)?),
            "boot" => Self::Boot,
            "env" => Self::Env,
            "argv" => Self::Argv,
            "fds" => Self::Fds,
            "cwd" => Self::Cwd,
            "nofile" => Self::Nofile,
            "secret" => Self::Secret(file_name(value)?),
            "note" => Self::Note(own()),
            _ => return Err(format!("`{verb}` is not an action of the probe")),
        })
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a number"))
}

fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text.starts_with('.') {
        return Err(format!("`{text}` is not a plain file name"));
    }
    Ok(text.to_owned())
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
        }
        _ => Err(format!("`{text}` is not hexadecimal")),
    }
}

/// The first line that the probe writes at each boot.
pub fn boot_line(boot: u32) -> String {
    format!("boot {boot}")
}

/// A line of [`Action::Lines`].
pub fn numbered_line(number: u64) -> String {
    format!("line {number}")
}

/// A line of [`Action::Count`].
pub fn count_line(boot: u32, number: u64) -> String {
    format!("count {boot} {number}")
}

/// A line of [`Action::Flood`]: 100 bytes with its line feed.
pub fn flood_line(number: u64) -> String {
    format!("flood {number:012} {}", "=".repeat(80))
}

/// How many lines [`Action::Flood`] has for so many bytes.
pub fn flood_lines(bytes: u64) -> u64 {
    bytes.div_ceil(100)
}

/// The line of [`Action::Giant`].
pub fn giant_line(bytes: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(bytes).collect()
}

/// What the probe writes when it receives a signal.
pub fn signal_line(number: i32) -> String {
    format!("signal {number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read() {
        let check = |text: &str, expect: Option<Action>| {
            assert_eq!(Action::parse(text).ok(), expect, "{text}");
        };
        check("say=a=b c", Some(Action::Say("a=b c".into())));
        check("say=", Some(Action::Say(String::new())));
        check("lines=1-3", Some(Action::Lines(1, 3)));
        check("lines=3", None);
        check("raw=00ffA0", Some(Action::Raw(vec![0, 255, 160])));
        check("count=50", Some(Action::Count(50)));
        check("raw=0", None);
        check("raw=xy", None);
        check("exit=3", Some(Action::Exit(3)));
        check("exit=", None);
        check("put=a:b:c", Some(Action::Put("a".into(), "b:c".into())));
        check("put=../a:b", None);
        check("get=.hidden", None);
        check("healthy=yes", Some(Action::Healthy(true)));
        check("healthy=no", Some(Action::Healthy(false)));
        check("orphan", Some(Action::Orphan));
        check("dance", None);
        check("", None);
    }

    #[test]
    fn texts_have_the_size_they_promise() {
        assert_eq!(flood_line(1).len(), 99);
        assert_eq!(flood_line(123_456_789).len(), 99);
        assert_eq!(flood_lines(1000), 10);
        assert_eq!(flood_lines(1001), 11);
        assert_eq!(giant_line(28), b"abcdefghijklmnopqrstuvwxyzab");
    }
}
