//! As much HTTP as the suite and a health check speak.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::Ordering,
    thread,
    time::Duration,
};

use crate::{end_if_told, perform, script::Action, state};

/// Listens on the port; each connection has a thread and one request.
pub(crate) fn start(bind: &str, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((bind, port))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away early is no concern of the probe's, and neither is one for whom there is no
            // thread: its connection closes without an answer.
            let _ = thread::Builder::new().spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    // All of the head is read, or closing would reset the connection under the answer.
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let mut ends = false;
    let mut act = |action: &str| {
        let action = Action::parse(&decode(action)?)?;
        ends = matches!(action, Action::Exit(_) | Action::Signal(_));
        perform(&action)
    };
    let (status, body) = match path.strip_prefix("/do/") {
        Some(action) => match act(action) {
            Ok(body) => (200, body),
            Err(error) => (400, error),
        },
        None if path == "/healthz" && state().unhealthy.load(Ordering::SeqCst) => {
            (503, "unhealthy".to_owned())
        }
        None if path == "/healthz" => (200, "ok".to_owned()),
        None => (404, "no such path".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status} probe\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    drop(stream);
    drop(reader);
    // Only who was told of the end may end the program: another that is done just then would do so before the answer.
    if ends {
        end_if_told();
    }
    Ok(())
}

/// Percent-encoding undone.
fn decode(text: &str) -> Result<String, String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).map_err(|e| e.to_string())?)
            }
            _ => return Err("a broken `%`".to_owned()),
        }
    }
    String::from_utf8(out).map_err(|e| e.to_string())
}
