//! A whole run: a grid comes up, is broken again and again, and is looked at.

use std::collections::BTreeSet;
use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use grid_client::{Client, NodeSettings, SpawnRequest};
use grid_platform_api::{DataPolicy, NodeId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::census::{Judge, twice};
use crate::daemon::{Daemon, Recipe};
use crate::fleet::{Kind, Make, Slot, Want};
use crate::follow::{Follower, Goal, kept_from};
use crate::inject::{Injector, shown};
use crate::opaque;
use crate::place::Disk;
use crate::plan::{COMMON_POINTS, Fault, Kind as FaultKind, Plan};
use crate::platform::{self, Ground, Place};
use crate::proxy::Proxy;
use crate::report::{Report, count};
use crate::{Args, Result};

/// How long nodes may take to serve what they hold, and followers to read what was written.
const CATCH_UP: Duration = Duration::from_secs(30);
/// How long it is from one of the wishes that are refused to the next.
const INSISTS: Duration = Duration::from_secs(1);
/// How many epochs of so many points a full run has more where some were not met.
const MORE_EPOCHS: usize = 12;
const MORE_POINTS: usize = 16;
/// How much is kept of each log, in bytes: as little as a platform takes, so that who reads late finds a gap.
pub(crate) const LOG_KEPT: u64 = 64 * 1024;
/// The size of the disk that the grid's state and data lie on, in bytes.
const DISK: u64 = 192 << 20;
/// What a node may fail of anywhere: what was done to its disk, and a kill before it was ready. Anything else that its
/// ground does not excuse is nobody's fault but the grid's.
const EXCUSES: [&str; 3] = ["No space left on device", "Input/output error", "signal 9"];
/// How a program ends that finds its disk full and has no room to log so: a probe, and a storage server. An excuse where the disk
/// was filled since the last rest, and nowhere else.
const OUT_OF_ROOM: [&str; 2] = ["exit code 97", "exit code 1"];

/// A grid under fire.
struct Run<'a> {
    args: &'a Args,
    place: Place,
    ground: Arc<dyn Ground>,
    client: Client,
    slots: Vec<Arc<Slot>>,
    followers: Vec<Arc<Follower>>,
    /// Those of the ids that others have which were refused so far.
    refused: BTreeSet<NodeId>,
    injector: Injector,
    gate: watch::Sender<bool>,
    watcher: Watcher,
    report: Report,
    began: Instant,
}

/// Looks all the while for a node that runs twice.
struct Watcher {
    found: watch::Receiver<(u64, Vec<String>)>,
}

impl Watcher {
    fn start(ground: Arc<dyn Ground>) -> Self {
        let (sender, found) = watch::channel((0, Vec::new()));
        tokio::spawn(async move {
            while !sender.is_closed() {
                sleep(ground.manner().watch_every).await;
                // A process that ends while it is looked at may be seen beside the next one: both have to be there twice.
                let Ok(first) = ground.census().map(|it| twice(&it)) else {
                    continue;
                };
                let still = match first.is_empty() {
                    true => Vec::new(),
                    false => ground.census().map(|it| twice(&it)).unwrap_or_default(),
                };
                let both = first.into_iter().filter(|it| still.contains(it));
                let words: Vec<_> = both
                    .map(|(id, all)| format!("`{id}` ran twice at one moment: {all:?}"))
                    .collect();
                sender.send_modify(|(looks, wrong)| {
                    *looks += 1;
                    wrong.extend(words);
                });
            }
        });
        Self { found }
    }
}

/// Runs until so many faults were delivered or something is wrong.
pub(crate) async fn run(args: &Args, place: Place) -> Result<Report> {
    let mut run = Run::bring_up(args, place).await?;
    let plan = Plan::new(args.seed(), run.ground.kinds(), &run.points());
    let ended = run.go(plan).await;
    let violations = &mut run.report.violations;
    if let Err(error) = ended {
        violations.push(format!("the run could not go on: {error}"));
    }
    run.finish().await
}

impl<'a> Run<'a> {
    async fn bring_up(args: &'a Args, place: Place) -> Result<Self> {
        let disk = match place.own_namespaces {
            true => Some(Arc::new(Disk::mount(&place.disk, DISK)?)),
            false => None,
        };
        for dir in [
            &place.disk,
            &place.data(),
            &place.dir.join("fault-points-armed"),
            &place.dir.join("fault-points-met"),
        ] {
            fs::create_dir_all(dir)?;
        }
        // Where fault points are armed, figures are looked for too.
        fs::write(place.dir.join("log-max-bytes"), LOG_KEPT.to_string())?;
        let ground = platform::open(args, &place).await?;
        let ports = Ports::new(args.ports()?);
        let (http, grpc) = (ports.at(0)?, ports.at(1)?);
        let master = Daemon::start(master(args, &place, http, grpc)?);
        let (link, address) = Proxy::start(grpc).await?;
        let token = wait_for(&place.master().join("tokens/admin")).await?;
        wait_for(&place.master().join("tokens/agent")).await?;
        let client = Client::new(&format!("http://{http}"), Some(&token))?;
        let agent = Daemon::start(agent(args, &place, ground.as_ref(), address, &ports)?);
        let gate = watch::channel(false).0;
        let mut rng = Rng::with_seed(args.seed() ^ 0x5eed);
        let slots = (0..usize::from(args.nodes())).map(|number| {
            let kind = if number % 2 == 0 {
                Kind::Storage
            } else {
                Kind::Probe
            };
            let port = match kind {
                Kind::Storage => Some(ports.at(2 + number / 2)?.port()),
                Kind::Probe => None,
            };
            let make = Make {
                kind,
                number,
                port,
                seed: rng.u64(..),
                ground: Arc::clone(&ground),
            };
            Ok(Arc::new(Slot::new(make)?))
        });
        let slots: Vec<_> = slots.collect::<Result<_>>()?;
        let probes = slots
            .iter()
            .filter(|it| it.kind == Kind::Probe)
            .take(ground.manner().followed);
        let followers: Vec<_> = probes
            .map(|it| Arc::new(Follower::new(it.id.clone(), Arc::clone(&ground))))
            .collect();
        for id in ground.taken() {
            wish(&client, &id, ground.as_ref()).await?;
        }
        tokio::spawn(insist(client.clone(), ground.taken(), gate.subscribe()));
        for slot in &slots {
            tokio::spawn(Arc::clone(slot).live(client.clone(), gate.subscribe()));
            tokio::spawn(Arc::clone(slot).write(gate.subscribe()));
        }
        for follower in &followers {
            tokio::spawn(Arc::clone(follower).follow(client.clone()));
        }
        let watcher = Watcher::start(Arc::clone(&ground));
        let injector = Injector::new(
            Arc::clone(&ground),
            (agent, master),
            Arc::new(link),
            disk,
            place.dir.clone(),
        );
        let report = Report {
            platform: args.platform.clone(),
            seed: args.seed(),
            nodes: usize::from(args.nodes()),
            ..Report::default()
        };
        let began = Instant::now();
        let mut run = Self {
            args,
            place,
            ground,
            client,
            slots,
            followers,
            refused: BTreeSet::new(),
            injector,
            gate,
            watcher,
            report,
            began,
        };
        if !run.place.own_namespaces && !platform::is_on_a_cluster(&args.platform) {
            run.report.left_out.push("`fill disk` and `recycle pid`: only root can have a disk and a process table of its own".to_owned());
        }
        if args.spare_cluster {
            let words = "the cluster's own parts, as `--spare-cluster` says".to_owned();
            run.report.left_out.push(words);
        }
        Ok(run)
    }

    fn points(&self) -> Vec<crate::plan::Point> {
        let mut points = self.ground.points();
        points.extend(COMMON_POINTS);
        points
    }

    /// Epoch after epoch: faults, then rest and a census.
    async fn go(&mut self, mut plan: Plan) -> Result<()> {
        let mut more = MORE_EPOCHS;
        while self.report.violations.is_empty() {
            let left = usize::try_from(self.args.faults().saturating_sub(self.report.faults))?;
            // As many as are due, and never more than an epoch's; those that meet nobody come back in the next.
            let faults: Vec<_> = match plan.epoch().min(left) {
                0 if more > 0 && self.args.full && !self.unmet().is_empty() => {
                    more -= 1;
                    let points = plan.by_ref().filter(|it| it.point.is_some());
                    points.take(MORE_POINTS).collect()
                }
                0 => break,
                faults => plan.by_ref().take(faults).collect(),
            };
            self.ground.begin();
            self.gate.send_replace(true);
            let mut filled = false;
            for fault in faults {
                sleep(Duration::from_millis(
                    fault.wait_ms * self.ground.manner().slower,
                ))
                .await;
                let name = match fault.point {
                    Some(_) => None,
                    None => Some(fault.kind.to_string()),
                };
                filled |= matches!(fault.kind, FaultKind::FillDisk | FaultKind::FillEngine);
                let struck = self.strike(&fault).await?;
                match name {
                    Some(name) if struck => self.delivered(&name, 1),
                    Some(name) => {
                        if self.ground.manner().insists {
                            let words = format!("the fault `{name}` met nobody");
                            self.report.violations.push(words);
                        }
                        count(&mut self.report.missed, name);
                    }
                    None => {}
                }
                self.look_at_points();
            }
            let until = Instant::now() + self.ground.manner().points_wait;
            while self.injector.points_wait() && Instant::now() < until {
                sleep(Duration::from_millis(20)).await;
                self.look_at_points();
            }
            self.gate.send_replace(false);
            self.injector.calm().await?;
            self.rest(filled).await?;
            self.say_epoch();
        }
        Ok(())
    }

    /// Lets a fault strike, again and again where it met nobody and its ground persists. Whether it met somebody.
    async fn strike(&mut self, fault: &Fault) -> Result<bool> {
        let until = Instant::now() + self.ground.manner().persists;
        loop {
            let struck = self.injector.strike(fault).await?;
            if struck || fault.point.is_some() || Instant::now() >= until {
                return Ok(struck);
            }
            self.look_at_points();
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn look_at_points(&mut self) {
        let met = self.injector.look_at_points();
        self.delivered("fault point", met);
    }

    fn delivered(&mut self, name: &str, times: u64) {
        if times > 0 {
            *self.report.delivered.entry(name.to_owned()).or_default() += times;
            self.report.faults += times;
        }
    }

    /// Waits until everything is as it was acknowledged, and looks closely.
    async fn rest(&mut self, filled: bool) -> Result<()> {
        // Whoever asks for something holds the model until that is settled.
        for slot in &self.slots {
            let mut model = slot.model.lock().await;
            slot.settle_unknown(&self.client, &mut model).await;
            self.report.violations.append(&mut model.wrong);
        }
        let manner = self.ground.manner();
        let until = Instant::now() + manner.rest;
        let mut anew = BTreeSet::new();
        loop {
            let judge = Judge {
                ground: self.ground.as_ref(),
                slots: &self.slots,
                taken: &self.ground.taken(),
            };
            let known = self.injector.own_processes();
            let verdict = match judge.look(&self.client, &known).await {
                Ok(verdict) => verdict,
                // Something went while it was looked at.
                Err(_) if Instant::now() < until => {
                    sleep(manner.look_every).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (id, starts) in &verdict.left_over {
                let starts = starts.iter().map(|it| (id.clone(), *it));
                self.report.left_over.extend(starts);
            }
            if verdict.wrong.is_empty() {
                self.report.orphans += verdict.orphans;
                self.report.outside += verdict.outside;
                self.report.strangers += verdict.decoys;
                self.refused.extend(verdict.refused);
                for id in &verdict.forgotten {
                    wish(&self.client, id, self.ground.as_ref()).await?;
                }
                break;
            }
            if Instant::now() >= until {
                self.report.violations.extend(verdict.wrong);
                break;
            }
            for id in &verdict.left {
                // An answer that is lost comes to the same: it is looked at again.
                if self.client.remove(id, DataPolicy::Purge).await.is_ok() {
                    let words = "a start where somebody else is, cut short".to_owned();
                    count(&mut self.report.started_anew, words);
                }
            }
            let mut again = Vec::new();
            for failed in verdict.failed {
                let why = &failed.why;
                let (id, port) = (&failed.slot.id, failed.slot.port);
                if !failed.is_given_up {
                    self.ground.mend(id, port, why).await?;
                    continue;
                }
                // Once in each rest: what fails again with no fault about is wrong.
                if !anew.insert(id.clone()) {
                    continue;
                }
                let mut excuses = EXCUSES.iter().chain(self.ground.excuses());
                let excused = excuses.any(|it| why.contains(it))
                    || filled && OUT_OF_ROOM.iter().any(|it| why.ends_with(it));
                let mended = !excused && self.ground.mend(id, port, why).await?;
                if mended {
                    // What is done for that is a fault to others that are being started.
                    anew.clear();
                }
                if !excused && !mended {
                    let words = format!("`{}` failed: {}", failed.slot.id, failed.why);
                    self.report.violations.push(words);
                }
                again.push(failed);
            }
            anew.extend(again.iter().map(|it| it.slot.id.clone()));
            for failed in again {
                if failed.slot.wish_anew(&self.client).await.is_ok() {
                    count(&mut self.report.started_anew, failed.why);
                }
            }
            sleep(manner.look_every).await;
        }
        self.report.censuses += 1;
        let (unharmed, wrong) = self.injector.dismiss_decoys().await?;
        self.report.decoys += unharmed;
        self.report.violations.extend(wrong);
        self.read_objects().await;
        self.compare_logs().await?;
        let found = self.watcher.found.borrow().clone();
        self.report.looks_for_a_node_twice = found.0;
        if self.report.violations.is_empty() {
            self.report.violations.extend(found.1);
        }
        self.look_for_panics()
    }

    async fn read_objects(&mut self) {
        let until = Instant::now() + CATCH_UP;
        let mut readers = JoinSet::new();
        for slot in &self.slots {
            if !matches!(slot.model.lock().await.wants[..], [Want::Running { .. }]) {
                continue;
            }
            let slot = Arc::clone(slot);
            readers.spawn(async move {
                match &slot.ledger {
                    Some(ledger) => ledger.lock().await.verify(until).await,
                    None => Vec::new(),
                }
            });
        }
        while let Some(wrong) = readers.join_next().await {
            self.report
                .violations
                .extend(wrong.unwrap_or_else(|e| vec![e.to_string()]));
        }
    }

    /// What followers have read must be what the log holds, once they had time to read it.
    async fn compare_logs(&mut self) -> Result<()> {
        for follower in &self.followers {
            let until = Instant::now() + CATCH_UP;
            // A log that grows on is never read to its end: what it held at first is.
            let mut goal = None;
            loop {
                // Whoever holds it keeps the follower from reading on: what was read before is in the log by now.
                let mut state = follower.state.lock().await;
                self.report.violations.append(&mut state.wrong);
                let records = self.ground.records()?;
                let Some(uid) = records.nodes.get(follower.id.as_str()) else {
                    break;
                };
                let log = match self.ground.log(&follower.id) {
                    Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                        state.counts.torn += 1;
                        break;
                    }
                    log => log?,
                };
                // Who reads while more is dropped sees a hole that goes on behind the place where it ends.
                let again = self.ground.log(&follower.id)?;
                let settled = kept_from(&log) == kept_from(&again);
                let compared = match *uid == state.read.uid {
                    _ if !settled => Ok(None),
                    true => {
                        let goal =
                            goal.get_or_insert_with(|| Goal::of(&log, self.ground.positions()));
                        state.read.compare(&log, goal)
                    }
                    false => Ok(log.is_empty().then_some(0)),
                };
                match compared {
                    Ok(Some(same)) => {
                        state.counts.compared_bytes += same;
                        break;
                    }
                    Ok(None) if Instant::now() < until => {}
                    Ok(None) => {
                        let words = format!(
                            "the follower of `{}` has {} bytes of {} after {CATCH_UP:?} of rest (incarnation {}, and the log is of {uid}): {}",
                            follower.id,
                            state.read.bytes.len(),
                            log.len(),
                            state.read.uid,
                            opaque::ends_of(&state.read.bytes, &log)
                        );
                        self.report.violations.push(words);
                        break;
                    }
                    Err(words) => {
                        self.report
                            .violations
                            .push(format!("log of `{}`: {words}", follower.id));
                        break;
                    }
                }
                drop(state);
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    fn look_for_panics(&mut self) -> Result<()> {
        let ours = ["agent", "master"].map(|it| (it.to_owned(), fs::read(self.place.log(it))));
        // Of those that there are.
        let nodes = self.slots.iter().filter_map(|it| {
            let log = self.ground.log(&it.id).ok()?;
            Some((format!("program of `{}`", it.id), Ok(log)))
        });
        for (name, text) in ours.into_iter().chain(nodes) {
            let text = text?;
            let text = String::from_utf8_lossy(&text);
            if let Some(line) = text.lines().find(|it| it.contains("panicked at")) {
                self.report
                    .violations
                    .push(format!("the {name} panicked: {line}"));
            }
        }
        Ok(())
    }

    fn say_epoch(&self) {
        let report = &self.report;
        let living = report.violations.len();
        let used = self
            .injector
            .disk
            .as_ref()
            .and_then(|it| it.used().ok())
            .unwrap_or(0)
            >> 20;
        let line = format!(
            "{:>5} s  {:>5} of {} faults  census {}: {}  ({} decoys unharmed, disk {used} MiB)",
            self.began.elapsed().as_secs(),
            report.faults,
            self.args.faults(),
            report.censuses,
            if living == 0 {
                "all is as acknowledged".to_owned()
            } else {
                format!("{living} things wrong")
            },
            report.decoys,
        );
        if std::io::stderr().is_terminal() && living == 0 && report.faults < self.args.faults() {
            eprint!("\r{line}");
        } else {
            eprintln!("{line}");
        }
    }

    /// Takes the grid down, and looks whether anything is left.
    async fn finish(mut self) -> Result<Report> {
        self.gate.send_replace(false);
        self.injector.calm().await?;
        if self.report.violations.is_empty() {
            for slot in &self.slots {
                slot.purge(&self.client).await?;
            }
            self.rest(false).await?;
            let taken = self.ground.taken().into_iter();
            let never = taken.filter(|it| !self.refused.contains(it));
            let words = never.map(|it| format!("`{it}` is somebody else's, and was never refused"));
            self.report.violations.extend(words);
        }
        if self.report.violations.is_empty() {
            let ground = Arc::clone(&self.ground);
            match ground.last_fault(&self.client).await {
                Ok(None) => {}
                Ok(Some((name, wrong))) => {
                    self.delivered(name, 1);
                    self.report.violations.extend(wrong);
                }
                Err(error) => {
                    let words = format!("the last fault did not come to its end: {error}");
                    self.report.violations.push(words);
                }
            }
        }
        self.sum_up().await;
        if self.report.violations.is_empty() {
            let Injector { agent, master, .. } = self.injector;
            agent.stop().await?;
            master.stop().await?;
        } else {
            keep_evidence(&self.place);
            self.ground.keep_evidence();
        }
        self.ground.clean_up().await?;
        Ok(self.report)
    }

    /// The orders of points that nobody has met.
    fn unmet(&self) -> Vec<String> {
        let (points, met) = (self.points(), self.injector.met());
        let all = points.iter().flat_map(|point| {
            let orders = point.orders.iter();
            orders.map(|order| shown(point.name, *order))
        });
        let mut unmet: Vec<_> = all.filter(|it| !met.contains_key(it)).collect();
        // Two orders of a point are both errors.
        unmet.dedup();
        unmet
    }

    async fn sum_up(&mut self) {
        let unmet = self.unmet();
        let report = &mut self.report;
        report.seconds = self.began.elapsed().as_secs();
        for slot in &self.slots {
            // One whose question hangs is not waited for.
            let Ok(model) = slot.model.try_lock() else {
                continue;
            };
            for (from, to) in [
                (&model.acknowledged, &mut report.acknowledged),
                (&model.unknown, &mut report.unknown),
                (&model.looked_at_once, &mut report.looked_at_once),
            ] {
                for (name, times) in from {
                    *to.entry(name.clone()).or_default() += times;
                }
            }
            report.asked_again += model.asked_again;
            if let Some(ledger) = &slot.ledger {
                let ledger = ledger.lock().await;
                let (sum, one) = (&mut report.objects, &ledger.counts);
                sum.written += one.written;
                sum.overwritten += one.overwritten;
                sum.deleted += one.deleted;
                sum.unknown += one.unknown;
                sum.verified += one.verified;
            }
        }
        for follower in &self.followers {
            let state = follower.state.lock().await;
            let (sum, one) = (&mut report.logs, &state.counts);
            sum.lines += one.lines;
            sum.in_order += one.in_order;
            sum.gaps += one.gaps;
            sum.never_kept += one.never_kept;
            sum.torn += one.torn;
            sum.beginnings += one.beginnings;
            sum.reconnected += one.reconnected;
            sum.replaced += one.replaced;
            sum.compared_bytes += one.compared_bytes;
        }
        report.points = self.injector.met();
        report.ends = self.injector.agent.ends();
        report.ends.extend(self.injector.master.ends());
        report.ends.extend(self.ground.ends());
        report.mended = self.ground.mended();
        report.points_unmet = unmet;
        if self.args.full && !report.points_unmet.is_empty() {
            let words = format!(
                "fault points that nobody met: {}",
                report.points_unmet.join("; ")
            );
            report.violations.push(words);
        }
    }
}

/// What the grid kept, for whoever looks for the reason: the disk goes with the run.
fn keep_evidence(place: &Place) {
    for (what, from) in [("agent", place.agent()), ("master", place.master())] {
        let to = place.dir.join(format!("state-of-{what}"));
        // Without it there are the logs.
        let _ = std::process::Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status();
    }
    let processes = crate::proc::all().unwrap_or_default();
    let words: Vec<_> = processes.iter().map(crate::proc::Process::words).collect();
    let _ = fs::write(place.dir.join("processes"), words.join("\n"));
}

async fn wait_for(path: &Path) -> Result<String> {
    let until = Instant::now() + CATCH_UP;
    loop {
        match fs::read_to_string(path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if Instant::now() >= until => {
                return Err(format!("`{}` does not come: {error}", path.display()).into());
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Wishes anew, while faults strike, what was refused, as somebody would who does not believe it.
async fn insist(client: Client, taken: Vec<NodeId>, mut gate: watch::Receiver<bool>) {
    for id in taken.iter().cycle() {
        if gate.wait_for(|it| *it).await.is_err() {
            return;
        }
        // What is lost is asked again in its turn.
        let _ = client.start(id).await;
        sleep(INSISTS).await;
    }
}

/// Wishes a node where somebody else is.
async fn wish(client: &Client, id: &NodeId, ground: &dyn Ground) -> Result<()> {
    let mut settings = NodeSettings::default();
    ground.dress(Some(Vec::new()), &mut settings);
    let request = SpawnRequest {
        node_id: Some(id.clone()),
        settings,
        ..SpawnRequest::default()
    };
    // One of its own: the node that an earlier wish made may be gone.
    let key = format!("{id}-{:016x}", fastrand::u64(..));
    let until = Instant::now() + CATCH_UP;
    loop {
        match client.spawn(&request, &key).await {
            Ok(_) => return Ok(()),
            // Its agent is on the way.
            Err(_) if Instant::now() < until => sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(format!("`{id}` cannot be wished: {error}").into()),
        }
    }
}

/// The ports of a run.
struct Ports {
    first: u16,
}

impl Ports {
    fn new(first: u16) -> Self {
        Self { first }
    }

    fn at(&self, number: usize) -> Result<SocketAddr> {
        let port = self.first + u16::try_from(number)?;
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

fn program(args: &Args, name: &str) -> std::path::PathBuf {
    args.programs.join(name)
}

fn master(args: &Args, place: &Place, http: SocketAddr, grpc: SocketAddr) -> Result<Recipe> {
    let settings = place.dir.join("grid-master.toml");
    let text = format!(
        "state_dir = '{}'\nhttp = '{http}'\ngrpc = '{grpc}'\nheartbeat_ms = 500\nlost_after_ms = 3000\nfault_dir = '{}'\n",
        place.master().display(),
        place.dir.display(),
    );
    fs::write(&settings, text)?;
    Ok(Recipe {
        name: "master",
        program: program(args, "grid-master"),
        args: vec!["--config".to_owned(), settings.display().to_string()],
        log: place.log("master"),
    })
}

fn agent(
    args: &Args,
    place: &Place,
    ground: &dyn Ground,
    master: SocketAddr,
    ports: &Ports,
) -> Result<Recipe> {
    let settings = place.dir.join("grid-agent.toml");
    let of_the_host = format!(
        "data_path = '{}'\nport_range = '{}-{}'\n",
        place.data().display(),
        ports.at(50)?.port(),
        ports.at(99)?.port(),
    );
    let text = format!(
        "[agent]\nagent_id = 'chaos'\nplatform = '{}'\nmaster_host = '{master}'\nstate_dir = '{}'\ntoken_file = '{}'\nfault_dir = '{}'\n\
         {}",
        args.platform,
        place.agent().display(),
        place.master().join("tokens/agent").display(),
        place.dir.display(),
        ground.settings(&of_the_host),
    );
    fs::write(&settings, text)?;
    Ok(Recipe {
        name: "agent",
        program: program(args, "grid-agent"),
        args: vec!["--config".to_owned(), settings.display().to_string()],
        log: place.log("agent"),
    })
}
