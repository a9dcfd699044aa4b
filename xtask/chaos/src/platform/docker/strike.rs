//! What befalls an engine and its containers behind the agent's back.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grid_platform_api::NodeId;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::decoys::MARK;
use super::engine::Engine;
use super::{Containers, SHIM, locked};
use crate::Result;
use crate::plan::{Fault, Kind};
use crate::proc;
use crate::proxy::Mode;
use crate::report::{Counts, count};

/// How long others' things may take to be as they were once an engine is up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How old a folder without a shim is that no start is going to use: one that is made for a start gets its shim at once.
const STALE: Duration = Duration::from_secs(5);

impl Containers {
    /// Lets a fault strike. Whether it met somebody.
    pub(super) fn hit(&self, fault: &Fault) -> Result<bool> {
        let lasts = Duration::from_millis(fault.lasts_ms);
        Ok(match fault.kind {
            Kind::KillEngine => self.end_engine(Signal::KILL, lasts),
            Kind::RestartEngine => self.end_engine(Signal::TERM, lasts),
            Kind::CutSocket => self.engine.socket.disturb(Mode::Cut, lasts),
            Kind::StallSocket => self.engine.socket.disturb(Mode::Stall, lasts),
            Kind::FillEngine => {
                // One that is started without room leaves containers out, whose programs run on, until it is started again.
                if !self.is_up() {
                    return Ok(false);
                }
                self.loses_lines.store(true, Ordering::SeqCst);
                self.engine.disk.fill_for(lasts)?
            }
            Kind::RemoveContainer => self.to_one(fault.pick, "DELETE", "?force=true").is_some(),
            Kind::StopContainer => {
                let how = ["/stop?t=0", "/stop?t=3", "/kill?signal=KILL"];
                let how = how.get(usize::try_from(fault.lasts_ms % 3)?).copied();
                self.to_one(fault.pick, "POST", how.unwrap_or_default())
                    .is_some()
            }
            Kind::PauseContainer => self.pause(fault.pick, lasts),
            Kind::RenameContainer => {
                let how = format!("/rename?name=renamed-{:016x}", fault.pick);
                self.to_one(fault.pick, "POST", &how).is_some()
            }
            _ => false,
        })
    }

    /// Ends the engine, and sees that others' things are as they were once another one is up.
    fn end_engine(&self, signal: Signal, pause: Duration) -> bool {
        if self.engine.disk.is_full() {
            return false;
        }
        let settles = |it: &JoinHandle<_>| !it.is_finished();
        if self.is_up() && !locked(&self.settling).iter().any(settles) {
            self.decoys.look_in_passing(&self.engine);
        }
        let Some(before) = self.engine.end(signal, pause) else {
            return false;
        };
        self.loses_lines.store(true, Ordering::SeqCst);
        *locked(&self.ended) = Some(before.clone());
        self.was_ended.store(true, Ordering::SeqCst);
        let (engine, decoys) = (Arc::clone(&self.engine), Arc::clone(&self.decoys));
        let mended = Arc::clone(&self.mended);
        let settled = tokio::spawn(async move {
            engine.wait_for_another(&before).await?;
            let until = Instant::now() + PATIENCE;
            // It may be ended again before it is up. Without room a start leaves a shim that keeps the next ones from starting.
            loop {
                engine.disk.has_room().await;
                match decoys.settle(&engine) {
                    Ok(wrong) => return Ok(wrong),
                    Err(error) if Instant::now() >= until => {
                        let words = "somebody else's containers do not come up again";
                        return Err(format!("{words}: {error}").into());
                    }
                    Err(error) => {
                        take_left_folders(&engine, &mended)?;
                        // Those of others are started twice by an engine that comes up as well.
                        if let Some(container) = in_use(&error.to_string()) {
                            end_shim_at_rest(&engine, &mended, container)?;
                        }
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        locked(&self.settling).push(settled);
        true
    }

    /// Whether an engine answers that was not told to end.
    fn is_up(&self) -> bool {
        let ended = locked(&self.ended).clone();
        let same = |one: &proc::Process, other: &proc::Process| {
            (one.pid, one.start) == (other.pid, other.start)
        };
        let process = self.engine.process();
        let lives = process.is_some_and(|it| !ended.is_some_and(|ended| same(&it, &ended)));
        lives && self.engine.get("/containers/json").is_ok()
    }

    /// Waits until another engine is up than the one that was ended last, if one was, and takes away what that has left.
    async fn up_again(&self) -> Result<()> {
        let ended = locked(&self.ended).clone();
        if let Some(ended) = ended {
            self.engine.wait_for_another(&ended).await?;
            self.end_left_shims()?;
        }
        self.settled().await
    }

    /// Does something to one of the containers that run; its id, if the engine did it.
    fn to_one(&self, pick: u64, method: &str, what: &str) -> Option<String> {
        // An engine that is away cannot be told either.
        let all = self.list().ok()?;
        let running: Vec<_> = all.iter().filter(|it| it.state == "running").collect();
        let at = pick.checked_rem(running.len() as u64)?;
        let id = &running.get(usize::try_from(at).ok()?)?.id;
        let done = self
            .engine
            .call(method, &format!("/containers/{id}{what}"), None);
        done.ok().map(|_| id.clone())
    }

    /// Pauses one: some for a while, others until all comes to rest.
    fn pause(&self, pick: u64, lasts: Duration) -> bool {
        let Some(id) = self.to_one(pick, "POST", "/pause") else {
            return false;
        };
        if pick.is_multiple_of(3) {
            locked(&self.paused).insert(id);
        } else {
            let engine = Arc::clone(&self.engine);
            tokio::spawn(async move {
                sleep(lasts).await;
                // It may be gone by then.
                let _ = engine.call("POST", &format!("/containers/{id}/unpause"), None);
            });
        }
        true
    }

    /// Ends all that lasts.
    pub(super) async fn let_go(&self) -> Result<()> {
        self.engine.socket.set(Mode::Pass);
        self.engine.disk.has_room().await;
        self.up_again().await?;
        let paused = std::mem::take(&mut *locked(&self.paused));
        for id in paused {
            let asked = self
                .engine
                .call("POST", &format!("/containers/{id}/unpause"), None);
            // It may be gone, or let go by its agent.
            if let Err(error) = asked {
                let words = error.to_string();
                if !["status 404", "status 409", "status 500"]
                    .iter()
                    .any(|it| words.contains(it))
                {
                    return Err(io::Error::other(words).into());
                }
            }
        }
        Ok(())
    }

    /// Waits until what was somebody else's is up again with an engine that was ended.
    async fn settled(&self) -> Result<()> {
        let settling = std::mem::take(&mut *locked(&self.settling));
        for settled in settling {
            let wrong = settled.await??;
            locked(&self.wrong).extend(wrong);
        }
        self.engine.wait().await
    }

    /// Ends the shims of an earlier engine whose containers do not run as far as this one knows, with what they keep: it was
    /// killed in the middle of a start, and keeps that container from being started for ever.
    fn end_left_shims(&self) -> Result<()> {
        let engine = self.engine.process().ok_or("the engine is away")?;
        let listed = self.engine.get("/containers/json?all=true")?;
        let lives = |container: &str| {
            let mut all = listed.as_array().into_iter().flatten();
            let lives = |it: &Value| it["State"] == "running" || it["State"] == "paused";
            all.any(|it| it["Id"] == container && lives(it))
        };
        let all = proc::all()?;
        let is_left = |it: &&proc::Process| {
            let container = shim_of(it);
            it.start < engine.start && container.is_some_and(|it| !lives(it))
        };
        all.iter()
            .filter(is_left)
            .for_each(|it| end_shim(&self.mended, it, &all));
        take_left_folders(&self.engine, &self.mended).map(|_| ())
    }

    /// Ends the shim of a node's container that does not run as far as the engine knows, which started it twice as it came up; whether
    /// there is one.
    pub(super) fn end_left_of(&self, id: &NodeId) -> Result<bool> {
        let container = self.container(id)?;
        let Some(container) = container.filter(|_| locked(&self.ended).is_some()) else {
            return Ok(false);
        };
        end_shim_at_rest(&self.engine, &self.mended, &container)
    }

    /// Whether an engine that came up behind one that was ended holds a port of that node for nobody. It says for ever that it is
    /// taken; then it is started again, as a person would. `seen`: its agent has found the port taken, and not the engine's books.
    pub(super) async fn free_port(
        &self,
        id: &NodeId,
        port: Option<u16>,
        seen: bool,
    ) -> Result<bool> {
        if !self.was_ended.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let mut wanted: Vec<u64> = port.map(u64::from).into_iter().collect();
        if let Some(container) = self.container(id)? {
            let inspected = self.engine.get(&format!("/containers/{container}/json"))?;
            let bindings = inspected["HostConfig"]["PortBindings"].as_object().cloned();
            let all = bindings.into_iter().flatten();
            wanted
                .extend(all.filter_map(|(_, it)| it[0]["HostPort"].as_str()?.parse::<u64>().ok()));
        }
        let running = self.engine.get("/containers/json")?;
        let running = running.as_array().into_iter().flatten();
        let mut had = running.flat_map(|it| it["Ports"].as_array().into_iter().flatten());
        let is_wanted = |it: &Value| {
            it["PublicPort"]
                .as_u64()
                .is_some_and(|it| wanted.contains(&it))
        };
        if wanted.is_empty() || had.any(is_wanted) {
            return Ok(false);
        }
        let is_taken = |it: &u64| {
            let port = u16::try_from(*it).unwrap_or_default();
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
        };
        // It may have gone by what was done for another one's.
        if !seen || wanted.iter().any(is_taken) {
            self.end_engine(Signal::TERM, Duration::ZERO);
            self.up_again().await?;
        }
        count(&mut locked(&self.mended), "a port");
        Ok(true)
    }
}

/// Ends the shim of a container that does not run as far as the engine knows, or takes its folder away; whether there was one.
fn end_shim_at_rest(engine: &Engine, mended: &Mutex<Counts>, container: &str) -> Result<bool> {
    let inspected = engine.get(&format!("/containers/{container}/json"))?;
    let rests = ["created", "exited"].map(|it| inspected["State"]["Status"] == it);
    if !rests.contains(&true) {
        return Ok(false);
    }
    let all = proc::all()?;
    let Some(shim) = all.iter().find(|it| shim_of(it) == Some(container)) else {
        return take_left_folders(engine, mended);
    };
    end_shim(mended, shim, &all);
    Ok(true)
}

fn end_shim(mended: &Mutex<Counts>, shim: &proc::Process, all: &[proc::Process]) {
    let children: Vec<_> = all.iter().filter(|it| it.parent == shim.pid).collect();
    let named = ["SUTRA_NODE_ID", MARK];
    let runs = |it: &&proc::Process| named.iter().any(|name| it.variable(name).is_some());
    let what = match children.iter().any(runs) {
        true => "a program, and the shim that keeps it",
        false => "a shim without a program",
    };
    for process in children.into_iter().chain([shim]) {
        // One that has just ended is gone as well.
        let _ = process.kill();
    }
    count(&mut locked(mended), what);
}

/// Takes away the folders of containers that have no shim: an engine that was killed left them, and the next one makes no container
/// start whose folder is there. Whether there was one.
fn take_left_folders(engine: &Engine, mended: &Mutex<Counts>) -> Result<bool> {
    let all = proc::all()?;
    let mut any = false;
    for folder in fs::read_dir(&engine.folders).into_iter().flatten() {
        let folder = folder?;
        let name = folder.file_name();
        let has_shim = all
            .iter()
            .any(|it| shim_of(it).is_some_and(|it| *it == *name));
        // It may be taken away by its engine just then.
        let made = folder.metadata().and_then(|it| it.modified());
        let age = made.ok().and_then(|it| it.elapsed().ok());
        if !has_shim
            && age.is_some_and(|it| it >= STALE)
            && fs::remove_dir_all(folder.path()).is_ok()
        {
            count(&mut locked(mended), "a folder without a shim");
            any = true;
        }
    }
    Ok(any)
}

/// The container that an engine does not start because it has a shim already.
fn in_use(words: &str) -> Option<&str> {
    let (call, why) = words.split_once("/start: ")?;
    let is_left = why.starts_with("id already in use");
    is_left.then(|| call.rsplit('/').next())?
}

/// The container that a process is the shim of, if it is one.
pub(super) fn shim_of(process: &proc::Process) -> Option<&str> {
    let name = process.args.first()?.rsplit('/').next()?;
    let at = process.args.iter().position(|it| it == "-id")?;
    (name == SHIM).then(|| process.args.get(at + 1).map(String::as_str))?
}
