//! The program whose log is read: it writes lines, each with the time of its writing.

use std::io::Write;
use std::time::Duration;

use crate::Result;
use crate::program::now;

/// What a node that writes is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many bytes it writes.
    #[arg(long)]
    bytes: u64,
    /// How many in a second; without it, as fast as it can.
    #[arg(long)]
    rate: Option<u64>,
}

/// What ends the last line.
pub(crate) const LAST: &str = "the last line";

/// A line's bytes, its end included.
const LINE: usize = 128;
/// The digits of nanoseconds at a line's beginning.
const DIGITS: usize = 20;
/// Lines are written so many at a time, as programs with a buffer do.
const AT_ONCE: u64 = 64;

/// Writes, and waits to be ended.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut output = std::io::stdout().lock();
    let start = now();
    let mut buffer = Vec::with_capacity(LINE * AT_ONCE as usize);
    let lines = args.bytes / LINE as u64;
    for line in 1..=lines {
        push(&mut buffer, if line == lines { LAST } else { "" });
        if line.is_multiple_of(AT_ONCE) || line == lines {
            output.write_all(&buffer)?;
            buffer.clear();
            if let Some(rate) = args.rate {
                let due = Duration::from_secs_f64((line * LINE as u64) as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(now() - start));
            }
        }
    }
    output.flush()?;
    loop {
        std::thread::park();
    }
}

fn push(buffer: &mut Vec<u8>, end: &str) {
    let text = format!("{:0DIGITS$} ", now().as_nanos());
    let fill = LINE - 1 - text.len() - end.len();
    buffer.extend_from_slice(text.as_bytes());
    buffer.resize(buffer.len() + fill, b'.');
    buffer.extend_from_slice(end.as_bytes());
    buffer.push(b'\n');
}

/// When a line was written.
pub(crate) fn written(line: &[u8]) -> Result<Duration> {
    let digits = line.get(..DIGITS).ok_or("a short line")?;
    Ok(Duration::from_nanos(std::str::from_utf8(digits)?.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_length_and_tell_their_time() {
        let mut buffer = Vec::new();
        let before = now();
        push(&mut buffer, "");
        push(&mut buffer, LAST);
        assert_eq!(buffer.len(), 2 * LINE);
        let last = &buffer[LINE..2 * LINE - 1];
        assert!(last.ends_with(LAST.as_bytes()));
        assert!(written(last).expect("a time") >= before);
        assert!(written(b"short").is_err());
    }
}
