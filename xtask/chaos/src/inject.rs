//! Faults, one by one, on whoever is there when they strike.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::daemon::Daemon;
use crate::place::Disk;
use crate::plan::{Fault, Kind, Order};
use crate::platform::{Census, Ground};
use crate::proc;
use crate::proxy::{Mode, Proxy};
use crate::report::{Counts, count};

/// How often a decoy is made until it has the number that it is meant to have.
const TRIES: usize = 30;

/// A stranger with the number of a process that the grid has in its records.
struct Decoy {
    child: Child,
    pid: u32,
}

/// An order of a point as it is counted.
pub(crate) fn shown(name: &str, order: Order) -> String {
    let what = order.text();
    format!("{name}, {}", what.split(' ').next().unwrap_or(&what))
}

/// Which of those that are due is armed: one order of a point at a time, and first what nobody has met at all.
fn next(due: &VecDeque<Armed>, armed: &[Armed], met: &Counts) -> Option<Armed> {
    let mut free = due
        .iter()
        .filter(|it| armed.iter().all(|(name, _)| *name != it.0));
    let is_new = |it: &&Armed| !met.contains_key(&shown(it.0, it.1));
    let new = free.clone().find(is_new);
    new.or_else(|| free.next()).copied()
}

/// A point, and what it does.
type Armed = (&'static str, Order);

/// Everything that faults strike.
pub(crate) struct Injector {
    pub(crate) ground: Arc<dyn Ground>,
    pub(crate) agent: Daemon,
    pub(crate) master: Daemon,
    pub(crate) link: Arc<Proxy>,
    pub(crate) disk: Option<Arc<Disk>>,
    /// Where fault points are armed.
    points: PathBuf,
    armed: Vec<Armed>,
    /// Orders of the plan that could not be armed yet, or that nobody has met before a rest.
    due: VecDeque<Armed>,
    met: Counts,
    decoys: Vec<Decoy>,
}

impl Injector {
    pub(crate) fn new(
        ground: Arc<dyn Ground>,
        (agent, master): (Daemon, Daemon),
        link: Arc<Proxy>,
        disk: Option<Arc<Disk>>,
        points: PathBuf,
    ) -> Self {
        Self {
            ground,
            agent,
            master,
            link,
            disk,
            points,
            armed: Vec::new(),
            due: VecDeque::new(),
            met: Counts::new(),
            decoys: Vec::new(),
        }
    }

    /// Lets a fault strike. Whether it met somebody; for a fault point that shows later.
    pub(crate) async fn strike(&mut self, fault: &Fault) -> Result<bool> {
        let lasts = Duration::from_millis(fault.lasts_ms);
        Ok(match fault.kind {
            Kind::KillAgent => self.agent.kill(lasts),
            Kind::KillMaster => self.master.kill(lasts),
            Kind::KillShim => self.kill(fault.pick, true, false)?.is_some(),
            Kind::KillNode => self.kill(fault.pick, false, true)?.is_some(),
            Kind::KillShimAndNode => self.kill(fault.pick, true, true)?.is_some(),
            Kind::CutLink => self.link.disturb(Mode::Cut, lasts),
            Kind::StallLink => self.link.disturb(Mode::Stall, lasts),
            Kind::FillDisk => match &self.disk {
                Some(disk) => disk.fill_for(lasts)?,
                None => false,
            },
            Kind::RecyclePid => self.recycle(fault.pick).await?,
            Kind::Point => {
                if let Some(order) = fault.point {
                    self.arm(order)?;
                }
                false
            }
            _ => self.ground.strike(fault).await?,
        })
    }

    /// Kills what runs of one node; the numbers that its supervisor and its program had.
    fn kill(&self, pick: u64, supervisor: bool, program: bool) -> Result<Option<[u32; 2]>> {
        let Census { nodes, .. } = self.ground.census()?;
        let living: Vec<_> = nodes
            .values()
            .filter_map(|it| Some((it.supervisors.first()?, it.programs.first()?)))
            .collect();
        let Some(at) = pick.checked_rem(living.len() as u64) else {
            return Ok(None);
        };
        let Some((shim, node)) = usize::try_from(at).ok().and_then(|at| living.get(at)) else {
            return Ok(None);
        };
        // The program first: it would follow its supervisor by itself.
        let struck = (!program || node.kill()) & (!supervisor || shim.kill());
        Ok(struck.then_some([shim.pid, node.pid]))
    }

    /// Arms what the plan has, or what is due before that.
    fn arm(&mut self, planned: Armed) -> io::Result<()> {
        if !self.due.contains(&planned) {
            self.due.push_back(planned);
        }
        let next = next(&self.due, &self.armed, &self.met);
        let Some((name, order)) = next else {
            return Ok(());
        };
        self.due.retain(|it| *it != (name, order));
        // Written beside and renamed, so that nobody meets a half of it.
        let fresh = self.points.join("fresh");
        fs::write(&fresh, order.text())?;
        fs::rename(fresh, self.points.join("fault-points-armed").join(name))?;
        self.armed.push((name, order));
        Ok(())
    }

    /// How many armed points were met since the last look.
    pub(crate) fn look_at_points(&mut self) -> u64 {
        let armed = self.points.join("fault-points-armed");
        let before = self.armed.len();
        let met = &mut self.met;
        self.armed.retain(|(name, order)| {
            let waits = armed.join(name).exists();
            if !waits {
                count(met, shown(name, *order));
            }
            waits
        });
        (before - self.armed.len()) as u64
    }

    pub(crate) fn points_wait(&self) -> bool {
        !self.armed.is_empty()
    }

    /// Which points were met how often.
    pub(crate) fn met(&self) -> Counts {
        self.met.clone()
    }

    /// Ends everything that lasts, and takes back what nobody has met.
    pub(crate) async fn calm(&mut self) -> Result<()> {
        self.link.set(Mode::Pass);
        self.agent.hold(false);
        if let Some(disk) = &self.disk {
            disk.has_room().await;
        }
        for point in std::mem::take(&mut self.armed) {
            // One that was met at the last moment is not counted.
            let _ = fs::remove_file(self.points.join("fault-points-armed").join(point.0));
            if !self.due.contains(&point) {
                self.due.push_front(point);
            }
        }
        self.ground.calm().await
    }

    /// Kills a supervisor and its program, mostly with the agent dead, and has a stranger take over one's number.
    async fn recycle(&mut self, pick: u64) -> Result<bool> {
        let with_agent = !pick.is_multiple_of(4);
        if with_agent {
            self.agent.hold(true);
            self.agent.kill(Duration::ZERO);
        }
        let struck = self.kill(pick, true, true)?;
        let made = match struck {
            Some([shim, node]) => {
                let wanted = if pick.is_multiple_of(3) { node } else { shim };
                self.impersonate(wanted).await?
            }
            None => false,
        };
        self.agent.hold(false);
        Ok(made)
    }

    async fn impersonate(&mut self, pid: u32) -> Result<bool> {
        let until = Instant::now() + Duration::from_secs(2);
        // Its parent may take a moment to bury it.
        while proc::look(pid).is_some() {
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..TRIES {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
            let mut child = Command::new("sleep")
                .arg("1d")
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .spawn()?;
            if child.id() == Some(pid) {
                self.decoys.push(Decoy { child, pid });
                return Ok(true);
            }
            // Somebody else was faster.
            child.kill().await?;
            if proc::look(pid).is_some() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Processes that are ours.
    pub(crate) fn own_processes(&self) -> BTreeSet<u32> {
        let mut own = BTreeSet::from([std::process::id(), std::os::unix::process::parent_id()]);
        own.extend(self.agent.pid());
        own.extend(self.master.pid());
        own.extend(self.decoys.iter().map(|it| it.pid));
        own
    }

    /// Ends the decoys: how many were unharmed, and what befell the others.
    pub(crate) async fn dismiss_decoys(&mut self) -> Result<(u64, Vec<String>)> {
        let (mut unharmed, mut wrong) = (0, Vec::new());
        for mut decoy in std::mem::take(&mut self.decoys) {
            match decoy.child.try_wait()? {
                Some(status) => wrong.push(format!(
                    "a stranger with the recycled pid {} was ended: {status}",
                    decoy.pid
                )),
                None => unharmed += 1,
            }
            // One that has ended already is buried by now.
            let _ = decoy.child.kill().await;
        }
        Ok((unharmed, wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_met_comes_first_and_no_point_twice_at_a_time() {
        let (abort, stall, full) = (Order::Abort, Order::Stall(1), Order::Full);
        let due = VecDeque::from([("a", abort), ("a", stall), ("b", full), ("c", abort)]);
        let mut met = Counts::new();
        let check = |armed: &[Armed], met: &Counts, expect: Option<Armed>| {
            assert_eq!(next(&due, armed, met), expect, "{armed:?} {met:?}");
        };
        check(&[], &met, Some(("a", abort)));
        check(&[("a", full)], &met, Some(("b", full)));
        count(&mut met, shown("a", abort));
        check(&[], &met, Some(("a", stall)));
        // Both errors are one.
        count(&mut met, shown("b", Order::Broken));
        check(&[("a", full)], &met, Some(("c", abort)));
        count(&mut met, shown("c", abort));
        check(&[("a", full)], &met, Some(("b", full)));
        check(&[("a", full), ("b", abort), ("c", abort)], &met, None);
    }
}
