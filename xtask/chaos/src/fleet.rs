//! Nodes and what is wished for them: one task a node asks for one thing after the other, and remembers what is true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use grid_client::{
    Class, Client, Desired, Error as ClientError, Node, NodeSettings, SpawnRequest, State,
    UpdateRequest,
};
use grid_platform_api::{DataPolicy, NodeId, ReadyMode, RestartMode, StopPolicy};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use crate::census::{is_refused, why};
use crate::objects::Ledger;
use crate::platform::Ground;
use crate::report::{Counts, count};

/// The variable by which a program shows which settings it was started with.
pub(crate) const VERSION: &str = "CHAOS_VERSION";
/// How long a stop may take to be shown as done before nobody waits for that moment any more: the rest comes later.
const SHOWN_SOON: Duration = Duration::from_secs(5);
/// How long a probe takes to end, in milliseconds: who does not wait for that is ahead of it.
const LINGER_MS: u64 = 300;
/// How much every second probe writes to its log at each start, in bytes: several times what is kept of it.
const FLOOD: u64 = 4 * crate::run::LOG_KEPT;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The built-in storage server, with objects.
    Storage,
    /// The probe: it writes down each boot, and numbered lines to its log.
    Probe,
}

/// What is true of a node once everything is at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// There is none. `kept`: its data is to be there, if it ever had any.
    Absent { kept: bool },
    /// It runs with these settings.
    Running { version: u64 },
    /// It does not run, and would with these settings.
    Stopped { version: u64 },
}

/// What a removal does with the data that is to be kept, or not.
fn data_policy(kept: bool) -> DataPolicy {
    match kept {
        true => DataPolicy::Keep,
        false => DataPolicy::Purge,
    }
}

/// A thing to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Spawn,
    SpawnAgain,
    Stop,
    Start,
    Update,
    Remove { purge: bool },
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::SpawnAgain => "spawn, repeated",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Update => "update",
            Self::Remove { purge: false } => "remove, data kept",
            Self::Remove { purge: true } => "remove with purge",
        }
    }

    fn draw(want: Want, rng: &mut Rng) -> Self {
        let remove = |rng: &mut Rng| Self::Remove { purge: rng.bool() };
        match (want, rng.u8(..100)) {
            (Want::Absent { .. }, _) => Self::Spawn,
            (Want::Running { .. }, 0..25) => Self::Stop,
            (Want::Running { .. }, 25..50) => Self::Update,
            (Want::Running { .. }, 50..65) => Self::SpawnAgain,
            (Want::Stopped { .. }, 0..50) => Self::Start,
            (Want::Stopped { .. }, 50..60) => Self::Update,
            (Want::Running { .. } | Want::Stopped { .. }, _) => remove(rng),
        }
    }

    /// What is true when it was acknowledged.
    fn after(self, before: Want, version: u64) -> Want {
        match (self, before) {
            (Self::Spawn, _) => Want::Running { version },
            (Self::SpawnAgain, before) => before,
            (Self::Stop, Want::Running { version } | Want::Stopped { version }) => {
                Want::Stopped { version }
            }
            (Self::Start, Want::Running { version } | Want::Stopped { version }) => {
                Want::Running { version }
            }
            (Self::Update, Want::Running { .. }) => Want::Running { version },
            (Self::Update, Want::Stopped { .. }) => Want::Stopped { version },
            (Self::Remove { purge }, _) => Want::Absent { kept: !purge },
            (Self::Stop | Self::Start | Self::Update, absent @ Want::Absent { .. }) => absent,
        }
    }
}

/// What is known of a node.
pub(crate) struct Model {
    /// One, or several while an answer is lost.
    pub(crate) wants: Vec<Want>,
    version: u64,
    operations: u64,
    rng: Rng,
    pub(crate) acknowledged: Counts,
    pub(crate) unknown: Counts,
    pub(crate) asked_again: u64,
    /// What was looked at the very moment it was shown as done.
    pub(crate) looked_at_once: Counts,
    pub(crate) wrong: Vec<String>,
}

/// A place for a node, whether there is one or not.
pub(crate) struct Slot {
    pub(crate) id: NodeId,
    pub(crate) kind: Kind,
    /// Of storage nodes: always the same, so that what is written to it goes to no other.
    pub(crate) port: Option<u16>,
    number: usize,
    ground: Arc<dyn Ground>,
    pub(crate) model: Mutex<Model>,
    pub(crate) ledger: Option<Mutex<Ledger>>,
}

/// What a node is made of.
pub(crate) struct Make {
    pub(crate) kind: Kind,
    pub(crate) number: usize,
    pub(crate) port: Option<u16>,
    pub(crate) seed: u64,
    pub(crate) ground: Arc<dyn Ground>,
}

/// What came of asking.
enum Answer {
    Done,
    /// It was refused, and nothing changed.
    NotNow,
    /// It contradicts what was acknowledged before.
    Wrong(String),
    /// No answer, or one that says that nobody knows.
    Lost,
}

impl Slot {
    pub(crate) fn new(make: Make) -> Result<Self, grid_platform_api::Error> {
        let name = match make.kind {
            Kind::Storage => "store",
            Kind::Probe => "probe",
        };
        let id = NodeId::new(format!("{name}-{}", make.number))?;
        Ok(Self {
            number: make.number,
            kind: make.kind,
            port: make.port,
            model: Mutex::new(Model {
                wants: vec![Want::Absent { kept: false }],
                version: 0,
                operations: 0,
                rng: Rng::with_seed(make.seed),
                acknowledged: Counts::new(),
                unknown: Counts::new(),
                asked_again: 0,
                looked_at_once: Counts::new(),
                wrong: Vec::new(),
            }),
            ledger: make.port.map(|port| {
                let ground = Arc::clone(&make.ground);
                Mutex::new(Ledger::new(ground, id.clone(), port, make.seed ^ 1))
            }),
            ground: make.ground,
            id,
        })
    }

    /// Whether its program leaves a process beside itself that ignores signals and has left its session.
    pub(crate) fn leaves_an_orphan(&self) -> bool {
        self.kind == Kind::Probe
    }

    /// Of a probe.
    fn arguments(&self) -> Vec<String> {
        let mut all = vec!["orphan".to_owned(), format!("linger={LINGER_MS}")];
        if self.number % 4 == 1 {
            all.push(format!("flood={FLOOD}"));
        }
        all.push("count=20".to_owned());
        all
    }

    fn settings(&self, version: u64) -> NodeSettings {
        let mut settings = NodeSettings {
            port: self.port,
            env: Some(BTreeMap::from([(VERSION.to_owned(), version.to_string())])),
            restart: Some(RestartMode::Always.into()),
            stop: Some(StopPolicy {
                grace: Duration::from_secs(3),
                ..StopPolicy::default()
            }),
            ready: Some(ReadyMode::Alive {
                for_: Duration::from_millis(100),
            }),
            ..NodeSettings::default()
        };
        let probe = (self.kind == Kind::Probe).then(|| self.arguments());
        self.ground.dress(probe, &mut settings);
        settings
    }

    async fn ask(&self, client: &Client, operation: Operation, version: u64, key: &str) -> Answer {
        let asked = match operation {
            Operation::Spawn | Operation::SpawnAgain => {
                let request = SpawnRequest {
                    node_id: Some(self.id.clone()),
                    settings: self.settings(version),
                    ..SpawnRequest::default()
                };
                client.spawn(&request, key).await
            }
            Operation::Stop => client.stop(&self.id).await,
            Operation::Start => client.start(&self.id).await,
            Operation::Update => {
                let settings = self.settings(version);
                client
                    .update(
                        &self.id,
                        &UpdateRequest {
                            settings,
                            if_generation: None,
                        },
                    )
                    .await
            }
            Operation::Remove { purge } => client.remove(&self.id, data_policy(!purge)).await,
        };
        let Err(error) = asked else {
            return Answer::Done;
        };
        let wrong = || Answer::Wrong(format!("{} of `{}`: {error}", operation.name(), self.id));
        match (operation, error.class()) {
            (Operation::Remove { .. }, Class::NotFound) => Answer::Done,
            (_, Class::NotFound) => wrong(),
            // The one before is being removed still.
            (Operation::Spawn, Class::Conflict) => Answer::NotNow,
            (_, Class::Conflict) => wrong(),
            _ if error.status().is_some_and(|it| it < 500) && !error.is_retryable() => wrong(),
            _ => Answer::Lost,
        }
    }

    /// Asks for one thing, until it is settled; now and then an answer that is lost is left at that.
    async fn operate(&self, client: &Client) {
        let mut model = self.model.lock().await;
        self.settle_unknown(client, &mut model).await;
        let [before] = model.wants[..] else { return };
        let operation = Operation::draw(before, &mut model.rng);
        let version = match (operation, before) {
            (Operation::SpawnAgain, Want::Running { version }) => version,
            _ => {
                model.version += 1;
                model.version
            }
        };
        model.operations += 1;
        let key = format!("{}-{}", self.id, model.operations);
        let purges = operation == Operation::Remove { purge: true };
        // What is written while the data is being deleted would be lost by right.
        let mut ledger = match &self.ledger {
            Some(ledger) if purges => Some(ledger.lock().await),
            _ => None,
        };
        let after = operation.after(before, version);
        let patience = self.ground.manner().patience;
        let until = Instant::now() + patience;
        loop {
            match self.ask(client, operation, version, &key).await {
                Answer::Done => {
                    model.wants = vec![after];
                    count(&mut model.acknowledged, operation.name());
                    break;
                }
                Answer::NotNow => {
                    if let Ok(node) = client.node(&self.id).await {
                        self.remove_again(client, &node, before).await;
                    }
                }
                Answer::Wrong(words) => {
                    model.wrong.push(words);
                    break;
                }
                Answer::Lost => {
                    model.wants = vec![before, after];
                    if !purges && model.rng.u8(..5) == 0 {
                        count(&mut model.unknown, operation.name());
                        break;
                    }
                    model.asked_again += 1;
                }
            }
            if Instant::now() >= until {
                let words = format!(
                    "{} of `{}` was not settled within {patience:?}",
                    operation.name(),
                    self.id
                );
                model.wrong.push(words);
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        if let [Want::Absent { kept: false }] = model.wants[..] {
            // It is wished gone, and goes when its agent has come to it.
            if self.is_gone(client, until).await {
                self.look_at_once(&mut model, "purge");
            } else {
                let words = format!("`{}` was not removed within {patience:?}", self.id);
                model.wrong.push(words);
            }
            if let Some(ledger) = &mut ledger {
                ledger.forget_all();
            }
        }
        // Half of them: others are followed by the next wish at once.
        let awaited = operation == Operation::Stop && model.wants.len() == 1 && model.rng.bool();
        if awaited && self.is_shown_as_stopped(client).await {
            self.look_at_once(&mut model, "stop");
        }
    }

    /// What is told as ended is so from that moment on, and what is told as purged has no data.
    fn look_at_once(&self, model: &mut Model, what: &str) {
        // What goes while it is looked at is looked at again in the rest.
        let Ok(census) = self.ground.census() else {
            return;
        };
        if let Some(living) = census.nodes.get(self.id.as_str())
            && !living.is_ended()
        {
            model.wrong.push(format!(
                "`{}` runs when its {what} is shown as done: {living:?}",
                self.id
            ));
        }
        if what == "purge" && self.ground.has_data(&self.id).unwrap_or(false) {
            let words = format!("`{}` has data when its purge is shown as done", self.id);
            model.wrong.push(words);
        }
        count(&mut model.looked_at_once, what);
    }

    async fn is_shown_as_stopped(&self, client: &Client) -> bool {
        let until = Instant::now() + SHOWN_SOON;
        while Instant::now() < until {
            if client.node(&self.id).await.is_ok_and(|it| {
                it.state == State::Stopped
                    && it.error.is_none()
                    && it.observed_generation == it.generation
            }) {
                return true;
            }
            sleep(Duration::from_millis(5)).await;
        }
        false
    }

    async fn is_gone(&self, client: &Client, until: Instant) -> bool {
        loop {
            match client.node(&self.id).await {
                Err(error) if error.class() == Class::NotFound => return true,
                _ if Instant::now() >= until => return false,
                Ok(node) => {
                    self.remove_again(client, &node, Want::Absent { kept: false })
                        .await;
                }
                Err(_) => {}
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// Wishes a removal again that was refused for a reason which is mended, as a person would.
    async fn remove_again(&self, client: &Client, node: &Node, want: Want) {
        if let Want::Absent { kept } = want
            && is_refused(node)
            && self.is_mended(&why(node)).await
        {
            // An answer that is lost comes to the same.
            let _ = client.remove(&self.id, data_policy(kept)).await;
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Finds out what became of what nobody answered for: it must be one of what it may be.
    pub(crate) async fn settle_unknown(&self, client: &Client, model: &mut Model) {
        if model.wants.len() < 2 {
            return;
        }
        let patience = self.ground.manner().patience;
        let until = Instant::now() + patience;
        loop {
            let told = match client.node(&self.id).await {
                Ok(node) => Some(Some(node)),
                Err(error) if error.class() == Class::NotFound => Some(None),
                Err(_) => None,
            };
            if let Some(told) = told {
                let fits = |want: &&Want| is_told(told.as_ref(), **want);
                match model.wants.iter().find(fits).copied() {
                    Some(want) => model.wants = vec![want],
                    None => {
                        let words = format!(
                            "`{}` is {}, and may be one of {:?}",
                            self.id,
                            words(told.as_ref()),
                            model.wants
                        );
                        model.wrong.push(words);
                        model.wants.truncate(1);
                    }
                }
                return;
            }
            if Instant::now() >= until {
                model.wrong.push(format!(
                    "the master did not tell of `{}` within {patience:?}",
                    self.id
                ));
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether the reason was the platform's, and is none any more.
    async fn is_mended(&self, why: &str) -> bool {
        // What cannot be looked at now is asked again.
        let mended = self.ground.mend(&self.id, self.port, why).await;
        mended.unwrap_or(false)
    }

    /// Wishes once more what is wished already, as a person would for a node that is shown as failed.
    pub(crate) async fn wish_anew(&self, client: &Client) -> Result<(), ClientError> {
        let wants = self.model.lock().await.wants.clone();
        match wants[..] {
            [Want::Stopped { .. }] => client.stop(&self.id).await.map(drop),
            [Want::Absent { kept }] => client.remove(&self.id, data_policy(kept)).await.map(drop),
            _ => client.start(&self.id).await.map(drop),
        }
    }

    /// Wishes it gone with its data, until that is acknowledged. One that is gone already has left what it was to leave.
    pub(crate) async fn purge(&self, client: &Client) -> Result<(), ClientError> {
        let mut model = self.model.lock().await;
        if matches!(model.wants[..], [Want::Absent { .. }]) {
            return Ok(());
        }
        let until = Instant::now() + self.ground.manner().patience;
        loop {
            match client.remove(&self.id, DataPolicy::Purge).await {
                Ok(_) => break,
                Err(error) if error.class() == Class::NotFound => break,
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
        model.wants = vec![Want::Absent { kept: false }];
        if let Some(ledger) = &self.ledger {
            ledger.lock().await.forget_all();
        }
        Ok(())
    }

    /// Asks for one thing after the other, while the gate is open.
    pub(crate) async fn live(self: Arc<Self>, client: Client, mut gate: watch::Receiver<bool>) {
        loop {
            // The gate goes with the run.
            if gate.wait_for(|open| *open).await.is_err() {
                return;
            }
            let pause = self.ground.manner().pause_ms;
            let pause = self.model.lock().await.rng.u64(pause);
            let closed = async { drop(gate.wait_for(|open| !*open).await) };
            let due = tokio::time::timeout(Duration::from_millis(pause), closed)
                .await
                .is_err();
            if due {
                self.operate(&client).await;
            }
        }
    }

    /// Writes one object after the other, while the gate is open.
    pub(crate) async fn write(self: Arc<Self>, mut gate: watch::Receiver<bool>) {
        let Some(ledger) = &self.ledger else { return };
        loop {
            if gate.wait_for(|open| *open).await.is_err() {
                return;
            }
            let answered = ledger.lock().await.step().await;
            let pause = if answered { 15 } else { 100 };
            sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Whether what the master tells of a node is that.
fn is_told(node: Option<&Node>, want: Want) -> bool {
    let Some(node) = node else {
        return matches!(want, Want::Absent { .. });
    };
    let version = || {
        let env = node.settings.as_ref().and_then(|it| it.env.as_ref());
        env.and_then(|it| it.get(VERSION))
            .and_then(|it| it.parse::<u64>().ok())
    };
    match (node.desired, want) {
        (Desired::Removed, Want::Absent { .. }) => true,
        (Desired::Running, Want::Running { version: expect })
        | (Desired::Stopped, Want::Stopped { version: expect }) => version() == Some(expect),
        _ => false,
    }
}

fn words(node: Option<&Node>) -> String {
    node.map_or_else(
        || "not there".to_owned(),
        |it| format!("wished {:?}, generation {}", it.desired, it.generation),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_after_an_operation() {
        let running = |version| Want::Running { version };
        let stopped = |version| Want::Stopped { version };
        let absent = |kept| Want::Absent { kept };
        let check = |operation: Operation, before, expect| {
            assert_eq!(
                operation.after(before, 2),
                expect,
                "{operation:?} {before:?}"
            );
        };
        check(Operation::Spawn, absent(true), running(2));
        check(Operation::SpawnAgain, running(1), running(1));
        check(Operation::Stop, running(1), stopped(1));
        check(Operation::Start, stopped(1), running(1));
        check(Operation::Update, running(1), running(2));
        check(Operation::Update, stopped(1), stopped(2));
        check(Operation::Remove { purge: false }, stopped(1), absent(true));
        check(Operation::Remove { purge: true }, running(1), absent(false));
    }

    #[test]
    fn only_what_makes_sense_is_asked_for() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..500 {
            assert_eq!(
                Operation::draw(Want::Absent { kept: true }, &mut rng),
                Operation::Spawn
            );
            let running = Operation::draw(Want::Running { version: 1 }, &mut rng);
            assert!(!matches!(running, Operation::Spawn | Operation::Start));
            let stopped = Operation::draw(Want::Stopped { version: 1 }, &mut rng);
            assert!(!matches!(
                stopped,
                Operation::Spawn | Operation::SpawnAgain | Operation::Stop
            ));
        }
    }
}
