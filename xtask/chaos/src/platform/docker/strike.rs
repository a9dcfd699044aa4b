//! What befalls an engine and its containers behind the agent's back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use super::{Containers, SHIM, locked};
use crate::Result;
use crate::plan::{Fault, Kind};
use crate::proc;
use crate::proxy::Mode;

/// How often an engine is started again to have it let go of what it holds for nobody.
const RESTARTS: usize = 3;
/// How soon what is just being started or ended is looked at again.
const SOON: Duration = Duration::from_millis(1000);

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

    /// Ends the engine, and sees that others' things are as they were once it is up again.
    fn end_engine(&self, signal: Signal, pause: Duration) -> bool {
        self.loses_lines.store(true, Ordering::SeqCst);
        let struck = self.engine.end(signal, pause);
        if struck {
            let (engine, decoys) = (Arc::clone(&self.engine), Arc::clone(&self.decoys));
            let settled = tokio::spawn(async move {
                // It may be ended again before it is up.
                loop {
                    engine.wait().await?;
                    match decoys.settle(&engine) {
                        Ok(wrong) => return Ok(wrong),
                        Err(_) => sleep(Duration::from_millis(50)).await,
                    }
                }
            });
            locked(&self.settling).push(settled);
        }
        struck
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
        self.settled().await?;
        self.mend_engine().await?;
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

    /// Waits until an engine that was ended is up again, and what was somebody else's with it.
    async fn settled(&self) -> Result<()> {
        let settling = std::mem::take(&mut *locked(&self.settling));
        for settled in settling {
            let wrong = settled.await??;
            locked(&self.wrong).extend(wrong);
        }
        self.engine.wait().await
    }

    /// What an engine that was killed has left of its own is taken away, as a person would. It may hold ports of containers that
    /// are gone, and say of them for ever that they are taken: then it is started again. And a shim without a program keeps
    /// its container from being started: then that is ended.
    async fn mend_engine(&self) -> Result<()> {
        if !self.loses_lines.load(Ordering::SeqCst) {
            return Ok(());
        }
        for _ in 0..RESTARTS {
            let (held, idle) = (self.held_for_nobody()?, idle_shims()?);
            sleep(SOON).await;
            // What is just being started or ended is not.
            let still = idle_shims()?.into_iter().filter(|it| idle.contains(it));
            let ended = still.filter(proc::Process::kill).count();
            let holds = self.held_for_nobody()?.iter().any(|it| held.contains(it));
            if holds {
                self.end_engine(Signal::TERM, Duration::ZERO);
                self.settled().await?;
            }
            if !holds && ended == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ports that the engine's proxies hold, and no container that runs has.
    fn held_for_nobody(&self) -> Result<Vec<u64>> {
        let all = self.engine.get("/containers/json")?;
        let all = all.as_array().into_iter().flatten();
        let ports = all.flat_map(|it| it["Ports"].as_array().into_iter().flatten());
        let had: Vec<u64> = ports.filter_map(|it| it["PublicPort"].as_u64()).collect();
        let held = proc::all()?.into_iter().filter_map(|it| {
            let is_proxy = it.args.first()?.ends_with("docker-proxy");
            let at = it.args.iter().position(|arg| arg == "-host-port")?;
            is_proxy.then(|| it.args.get(at + 1)?.parse().ok())?
        });
        Ok(held.filter(|it| !had.contains(it)).collect())
    }
}

/// Shims that keep nothing running.
fn idle_shims() -> Result<Vec<proc::Process>> {
    let all = proc::all()?;
    let is_idle = |shim: &&proc::Process| {
        let name = shim.args.first().and_then(|it| it.rsplit('/').next());
        name == Some(SHIM) && !all.iter().any(|it| it.parent == shim.pid)
    };
    Ok(all.iter().filter(is_idle).cloned().collect())
}
