//! How much a request may hold, and what its paths may be: what no program could be given is refused before anything is
//! made, and what is stored, sent and read again stays within what stores, wires and readers take.

use std::path::{Component, Path};

use crate::{Result, SecretValue, SpawnConfig, id::printable, spawn::invalid};

/// The longest path, in bytes: a quarter of Linux's own (PATH_MAX), so that what lies beneath has room.
const PATH_MAX: usize = 1024;
/// The longest part of a path, in bytes (NAME_MAX of Linux).
const PART_MAX: usize = 255;
/// The longest argument or variable, in bytes: MAX_ARG_STRLEN of Linux (execve(2)), without its NUL.
const TEXT_MAX: usize = 128 * 1024 - 1;
/// The longest request as JSON without the values of its secrets, in bytes; also the most that these may have together.
/// The master's HTTP API takes no more in a body either.
const REQUEST_MAX: usize = 1024 * 1024;
/// The longest secret that is given by a variable, in bytes.
const SECRET_VARIABLE_MAX: usize = 64 * 1024;
/// The most processes that a kernel counts (PID_MAX_LIMIT of Linux).
const PIDS_MAX: u32 = 4 * 1024 * 1024;

/// Checks the path `what`: one line of text, absolute, without `..`, of a length that can be used.
pub(crate) fn path(what: &str, path: &Path) -> Result<()> {
    let shown = printable(&path.to_string_lossy());
    let Some(text) = path.to_str() else {
        return Err(invalid(
            format!("{what} `{shown}` is not UTF-8"),
            "Rename it: requests, records and answers are text.",
        ));
    };
    if text.contains(char::is_control) {
        return Err(invalid(
            format!("{what} `{shown}` holds a control character"),
            "Name a path without line feeds, escapes and the like: it stands in errors, logs and tables.",
        ));
    }
    if text.len() > PATH_MAX || path.iter().any(|part| part.len() > PART_MAX) {
        return Err(invalid(
            format!(
                "{what} `{shown}` has {} bytes, more than can be used",
                text.len()
            ),
            format!("Use up to {PATH_MAX} bytes, {PART_MAX} of them between two `/`."),
        ));
    }
    let climbs = path.components().any(|it| it == Component::ParentDir);
    if !path.is_absolute() || climbs {
        return Err(invalid(
            format!("{what} is `{shown}`"),
            "Give an absolute path without `..`.",
        ));
    }
    Ok(())
}

/// Checks how much the request holds.
pub(crate) fn size(config: &SpawnConfig) -> Result<()> {
    if let Some(pids) = config.pids_limit.filter(|it| *it > PIDS_MAX) {
        return Err(invalid(
            format!("`pids_limit` is {pids}, outside 1 to {PIDS_MAX}"),
            "Leave `pids_limit` out for no limit.",
        ));
    }
    let too_long = |what: String, len: usize, max: usize, hint: &str| {
        Err(invalid(
            format!("{what} {len} bytes, more than {max}"),
            hint,
        ))
    };
    let in_a_file = "Give the program a file to read instead, such as a secret.";
    if let Some(arg) = config.program.args().iter().find(|it| it.len() > TEXT_MAX) {
        let what = "an argument has".to_owned();
        return too_long(what, arg.len(), TEXT_MAX, in_a_file);
    }
    for (name, value) in &config.env {
        let len = name.len() + 1 + value.len();
        if len > TEXT_MAX {
            let what = format!("the variable `{}` has", printable(name));
            return too_long(what, len, TEXT_MAX, in_a_file);
        }
    }
    // Text keys and no floating-point numbers: there is a JSON form once the paths are known to be text.
    let whole = serde_json::to_vec(config).map_or(usize::MAX, |it| it.len());
    if whole > REQUEST_MAX {
        return too_long(
            "the request as JSON has".to_owned(),
            whole,
            REQUEST_MAX,
            in_a_file,
        );
    }
    let len = |it: &SecretValue| it.expose().map_or(0, <[u8]>::len);
    let secrets: usize = config.secrets.values().map(len).sum();
    if secrets > REQUEST_MAX {
        return too_long(
            "the secrets together have".to_owned(),
            secrets,
            REQUEST_MAX,
            "Keep large files in the data, and only their key as a secret.",
        );
    }
    for secret in config.secret_env.values() {
        let len = config.secrets.get(secret).map_or(0, len);
        if len > SECRET_VARIABLE_MAX {
            return too_long(
                format!(
                    "the secret `{}`, given by a variable, has",
                    printable(secret)
                ),
                len,
                SECRET_VARIABLE_MAX,
                "Read it from its file under `{secrets_dir}` instead.",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use super::*;
    use crate::{ErrorKind, Program, SpawnConfigBuilder};

    #[test]
    fn paths() {
        let check = |path: &Path, expect: Option<&str>| {
            let error = super::path("`p`", path).err();
            assert_eq!(error.as_ref().map(ToString::to_string).as_deref(), expect);
            assert!(
                error.is_none_or(|it| it.kind() == ErrorKind::InvalidConfig && it.hint().is_some())
            );
        };
        let text = |path: &str, expect: Option<&str>| check(Path::new(path), expect);
        text("/srv/a b/ü/数", None);
        text(&format!("/{}", "x".repeat(255)), None);
        text("data", Some("`p` is `data`"));
        text("", Some("`p` is ``"));
        text("/a/../b", Some("`p` is `/a/../b`"));
        text("/a\nb", Some("`p` `/a\\nb` holds a control character"));
        text(
            "/a\u{1b}[2J",
            Some("`p` `/a\\u{1b}[2J` holds a control character"),
        );
        text("/a\0", Some("`p` `/a\\0` holds a control character"));
        check(
            Path::new(OsStr::from_bytes(b"/a\xff")),
            Some("`p` `/a\u{fffd}` is not UTF-8"),
        );
        let long = |path: String, len: usize| {
            let start: String = path.chars().take(60).collect();
            text(
                &path,
                Some(&format!(
                    "`p` `{start}...` has {len} bytes, more than can be used"
                )),
            );
        };
        long(format!("/{}", "x".repeat(256)), 257);
        long("/x".repeat(2048), 4096);
    }

    #[test]
    fn sizes() {
        let with_args = |args: Vec<String>| SpawnConfig::builder("a", Program::binary("/a", args));
        let plain = || with_args(Vec::new());
        let check = |builder: SpawnConfigBuilder, expect: Option<&str>| {
            let error = builder.build().err();
            let told = error.as_ref().map(ToString::to_string);
            assert_eq!(told.as_deref(), expect);
            assert!(
                error.is_none_or(|it| it.kind() == ErrorKind::InvalidConfig && it.hint().is_some())
            );
        };
        check(plain().pids_limit(PIDS_MAX), None);
        check(
            plain().pids_limit(PIDS_MAX + 1),
            Some("`pids_limit` is 4194305, outside 1 to 4194304"),
        );
        check(with_args(vec!["x".repeat(TEXT_MAX)]), None);
        check(
            with_args(vec!["x".repeat(TEXT_MAX + 1)]),
            Some("an argument has 131072 bytes, more than 131071"),
        );
        check(plain().env("A", "x".repeat(TEXT_MAX - 2)), None);
        check(
            plain().env("A", "x".repeat(TEXT_MAX - 1)),
            Some("the variable `A` has 131072 bytes, more than 131071"),
        );
        check(
            with_args(vec!["xyz".to_owned(); 200_000]),
            Some("the request as JSON has 1200064 bytes, more than 1048576"),
        );
        let many = (0..20_000).fold(plain(), |it, n| it.label(format!("k{n}"), "x".repeat(60)));
        assert_eq!(many.build().unwrap_err().kind(), ErrorKind::InvalidConfig);
        check(
            plain().secret("s", "x".repeat(REQUEST_MAX).as_str().into()),
            None,
        );
        check(
            plain().secret("s", "x".repeat(REQUEST_MAX + 1).as_str().into()),
            Some("the secrets together have 1048577 bytes, more than 1048576"),
        );
        let variable = |len: usize| {
            plain()
                .secret("s", "x".repeat(len).as_str().into())
                .secret_env("S", "s")
        };
        check(variable(SECRET_VARIABLE_MAX), None);
        check(
            variable(SECRET_VARIABLE_MAX + 1),
            Some("the secret `s`, given by a variable, has 65537 bytes, more than 65536"),
        );
    }
}
