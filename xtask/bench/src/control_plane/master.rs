//! The master that is measured: the real program with its store, and what it says of itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::http::Connection;
use crate::proc::{Guarded, Used, used};

/// How often agents and master let each other know that they live, and after what silence an agent counts as lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) heartbeat: Duration,
    pub(crate) lost_after: Duration,
}

/// A running master.
pub(crate) struct Master {
    program: PathBuf,
    state: PathBuf,
    pace: Pace,
    child: Guarded,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) token: String,
    /// How long the last start took until requests were answered.
    pub(crate) starting: Duration,
}

impl Master {
    /// Starts a master in a new state directory, on free ports.
    pub(crate) fn start(program: &Path, state: &Path, pace: Pace) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let started = Instant::now();
        let mut child = launch(program, state, pace, any, any)?;
        let (http, grpc) = addresses(&mut child, state)?;
        let token = std::fs::read_to_string(state.join("tokens/admin"))?;
        let token = token.trim().to_owned();
        ready(http)?;
        Ok(Self {
            program: program.to_owned(),
            state: state.to_owned(),
            pace,
            child,
            http,
            grpc,
            token,
            starting: started.elapsed(),
        })
    }

    /// Kills the master as a crash would, and starts another one on the same store and ports.
    pub(crate) fn crash(&mut self) -> Result<()> {
        self.child.kill()?;
        let started = Instant::now();
        self.child = launch(&self.program, &self.state, self.pace, self.http, self.grpc)?;
        addresses(&mut self.child, &self.state)?;
        ready(self.http)?;
        self.starting = started.elapsed();
        Ok(())
    }

    /// Ends it as its service manager would.
    pub(crate) fn end(self) -> Result<()> {
        self.child.end()
    }

    pub(crate) fn used(&self) -> Result<Used> {
        used(self.child.pid())
    }

    /// Bytes of its store's file.
    pub(crate) fn store_bytes(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.state.join("store.redb"))?.len())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>> {
        // The master closes connections on which nothing happens for long.
        let mut connection = Connection::open(self.http)?.bearer(&self.token);
        connection.request("GET", path, b"")
    }

    /// What the API answers to a GET.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.read(path)?)?)
    }

    /// A sample of its metrics.
    pub(crate) fn metric(&self, sample: &str) -> Result<u64> {
        let text = String::from_utf8(self.read("/metrics")?)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let value: f64 = value
            .ok_or_else(|| format!("the master has no metric `{sample}`"))?
            .parse()?;
        Ok(value as u64)
    }

    /// Waits until that metric has this value.
    pub(crate) fn await_metric(&self, sample: &str, value: u64, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.metric(sample)?;
            if now == value {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("`{sample}` is {now} and not {value} after {limit:?}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Events behind `after`, oldest first; all that are kept without it.
    pub(crate) fn events(&self, after: Option<u64>) -> Result<Vec<Value>> {
        let after = after.map_or_else(String::new, |id| format!("&after={id}"));
        let events = self.get(&format!("/api/grid/events?follow=false{after}"))?;
        match events {
            Value::Array(events) => Ok(events),
            _ => Err("events are no array".into()),
        }
    }

    /// The id of the newest event, once none has come for half a second.
    pub(crate) fn quiet_event(&self) -> Result<u64> {
        let id = |events: &[Value]| events.last().and_then(|event| event["id"].as_u64());
        let mut newest = id(&self.events(None)?).ok_or("there are no events")?;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            match id(&self.events(Some(newest))?) {
                Some(newer) => newest = newer,
                None => return Ok(newest),
            }
        }
    }
}

/// A token for each agent, as an operator makes them.
pub(crate) fn agent_token(connection: &mut Connection) -> Result<String> {
    let body = json!({"role": "agent"}).to_string();
    let made = connection.request("POST", "/api/grid/tokens", body.as_bytes())?;
    let made: Value = serde_json::from_slice(&made)?;
    let value = made["value"].as_str().ok_or("a token without a value")?;
    Ok(value.to_owned())
}

/// An answer that the master can be used.
fn ready(http: SocketAddr) -> Result<()> {
    Connection::open(http)?.request("GET", "/readyz", b"")?;
    Ok(())
}

fn launch(
    program: &Path,
    state: &Path,
    pace: Pace,
    http: SocketAddr,
    grpc: SocketAddr,
) -> Result<Guarded> {
    let ms = |duration: Duration| duration.as_millis().to_string();
    let child = Command::new(program)
        .arg("--state-dir")
        .arg(state)
        .args(["--http", &http.to_string(), "--grpc", &grpc.to_string()])
        .env("SUTRA_MASTER__HEARTBEAT_MS", ms(pace.heartbeat))
        .env("SUTRA_MASTER__LOST_AFTER_MS", ms(pace.lost_after))
        .env("SUTRA_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start `{}`: {error}", program.display()))?;
    Ok(Guarded::new(child))
}

/// Where the master serves, once it does.
fn addresses(child: &mut Guarded, state: &Path) -> Result<(SocketAddr, SocketAddr)> {
    let pid = child.pid();
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        if let Ok(bytes) = std::fs::read(state.join("addresses.json"))
            && let Ok(told) = serde_json::from_slice::<Value>(&bytes)
            && told["pid"].as_u64() == Some(u64::from(pid))
        {
            let address = |key: &str| -> Result<SocketAddr> {
                Ok(told[key].as_str().ok_or("an address is missing")?.parse()?)
            };
            return Ok((address("http")?, address("grpc")?));
        }
        if let Some(status) = child.get()?.try_wait()? {
            return Err(format!("the master ended with {status}").into());
        }
        if Instant::now() > deadline {
            return Err("the master does not serve after five minutes".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
