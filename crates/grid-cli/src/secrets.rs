//! Values of secrets: from files, the terminal or stdin, and never from arguments.

use std::{
    fs::File,
    io::{BufRead, IsTerminal, Read, Write},
    path::Path,
};

use grid_platform_api::SecretValue;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Error, Result};

/// Reads a secret that was given as `NAME=@FILE` or `NAME`.
pub(crate) fn read(text: &str) -> Result<(String, SecretValue)> {
    match parse(text)? {
        (name, Some(path)) => {
            let bytes = std::fs::read(path)
                .map_err(|error| Error::io("read the secret's file", Path::new(path), &error))?;
            Ok((name.to_owned(), SecretValue::new(bytes)))
        }
        (name, None) => Ok((name.to_owned(), ask(name)?)),
    }
}

fn parse(text: &str) -> Result<(&str, Option<&str>)> {
    match text.split_once('=') {
        None if !text.is_empty() => Ok((text, None)),
        Some((name, value)) if !name.is_empty() && value.len() > 1 && value.starts_with('@') => {
            Ok((name, Some(&value[1..])))
        }
        _ => {
            // What stands behind `=` may be the secret itself, so it is not repeated.
            let name = text.split('=').next().unwrap_or_default();
            Err(Error::usage(format!("the secret `{name}` is not given as a file")).with_hint(
                "Write `--secret NAME=@FILE`, or `--secret NAME` to be asked; arguments can be read by every user.",
            ))
        }
    }
}

/// Asks at the terminal without showing what is typed, or reads a line of stdin.
fn ask(name: &str) -> Result<SecretValue> {
    let fault = |error: std::io::Error| {
        Error::failed(format!("cannot read the secret `{name}`")).with_source(&error)
    };
    let mut line = Vec::new();
    if std::io::stdin().is_terminal() {
        let mut terminal = File::options()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .map_err(fault)?;
        write!(terminal, "Value of the secret `{name}`: ").map_err(fault)?;
        let shown = tcgetattr(&terminal).map_err(|error| fault(error.into()))?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Now, &hidden).map_err(|error| fault(error.into()))?;
        let read = read_line(&mut terminal, &mut line);
        tcsetattr(&terminal, OptionalActions::Now, &shown).map_err(|error| fault(error.into()))?;
        writeln!(terminal).map_err(fault)?;
        read.map_err(fault)?;
    } else {
        std::io::stdin()
            .lock()
            .read_until(b'\n', &mut line)
            .map_err(fault)?;
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.is_empty() {
        return Err(
            Error::usage(format!("there is no value for the secret `{name}`")).with_hint(
                "Type it, or give a line for each such secret on stdin, in their order.",
            ),
        );
    }
    Ok(SecretValue::new(line))
}

fn read_line(terminal: &mut File, line: &mut Vec<u8>) -> std::io::Result<()> {
    let mut byte = [0];
    while terminal.read(&mut byte)? == 1 {
        line.push(byte[0]);
        if byte[0] == b'\n' {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_an_argument_is_refused_and_not_repeated() {
        let check = |text: &str, expect: Option<(&str, Option<&str>)>| match (parse(text), expect) {
            (Ok(got), Some(expect)) => assert_eq!(got, expect),
            (Err(error), None) => {
                assert!(!error.to_string().contains("hunter2"), "{error}");
                assert_eq!(error.exit, crate::error::Exit::Usage);
            }
            (got, _) => panic!("{text}: {got:?}"),
        };
        check("key=@/run/key", Some(("key", Some("/run/key"))));
        check("key", Some(("key", None)));
        check("key=hunter2", None);
        check("key=@", None);
        check("=@/run/key", None);
        check("", None);
    }

    #[test]
    fn a_file_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "hunter2\n").unwrap();
        let (name, value) = read(&format!("key=@{}", path.display())).unwrap();
        assert_eq!(name, "key");
        assert_eq!(value.expose(), Some(&b"hunter2\n"[..]));
    }
}
