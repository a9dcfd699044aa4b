//! Programs that an adapter asks for something, such as credentials.

use std::{
    io,
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// How much a program may write, in bytes: what it is asked for has some kilobytes.
pub const MOST: usize = 1024 * 1024;

/// Runs a program to its end, with this as its standard input. It is killed when nobody waits for that any more.
///
/// # Errors
/// When it cannot be run; `FileTooLarge` when it writes more than [`MOST`] to its standard output or error.
pub async fn output(command: &mut Command, input: &[u8]) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let fed = async {
        if let Some(mut stdin) = stdin {
            // One that ends without reading says why by its output.
            stdin.write_all(input).await.ok();
        }
        Ok(())
    };
    let ((), stdout, stderr, status) =
        tokio::try_join!(fed, whole(stdout), whole(stderr), child.wait())?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

async fn whole(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MOST as u64 + 1).read_to_end(&mut read).await?;
    }
    match read.len() <= MOST {
        true => Ok(read),
        false => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it writes more than {MOST} bytes"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, input: &[u8]) -> io::Result<Output> {
        output(Command::new("sh").args(["-c", script]), input).await
    }

    #[tokio::test]
    async fn what_is_written_is_given_whole() {
        let said = sh("cat; echo why >&2; exit 3", b"key").await.unwrap();
        assert_eq!(said.stdout, b"key");
        assert_eq!(said.stderr, b"why\n");
        assert_eq!(said.status.code(), Some(3));
        let most = format!("head -c {MOST} /dev/zero");
        assert_eq!(sh(&most, b"").await.unwrap().stdout.len(), MOST);
    }

    #[tokio::test]
    async fn one_that_does_not_read_is_heard() {
        let input = vec![b'x'; 1024 * 1024];
        let said = sh("exec <&-; echo no", &input).await.unwrap();
        assert_eq!(said.stdout, b"no\n");
    }

    #[tokio::test]
    async fn one_that_writes_without_an_end_is_ended() {
        for script in ["cat /dev/zero", "cat /dev/zero >&2"] {
            let error = sh(script, b"").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{script}");
        }
    }
}
