//! Acting on one node once: look, decide, do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use grid_platform_api::{
    DataPolicy, Error, ErrorKind, NodeId, Platform, PlatformExt, ReadyMode, Result, SpawnConfig,
    SpawnedNode,
};
use grid_proto::Want;
use tokio::sync::{mpsc, oneshot, watch};

use super::decide::{Action, decide};
use crate::desired::Entry;

/// What came of acting on a node.
#[derive(Debug)]
pub(crate) struct Settled {
    /// What was done.
    pub(crate) action: Action,
    /// The node as it was last seen; an error when it could not be looked at.
    pub(crate) observed: Result<Option<SpawnedNode>>,
    /// Whether it worked.
    pub(crate) result: Result<()>,
}

impl Settled {
    /// Acting on the node came to no end of its own.
    pub(crate) fn broken_off() -> Self {
        let message = "acting on the node failed in an unforeseen way";
        Self {
            action: Action::Leave,
            observed: Err(unseen()),
            result: Err(Error::new(ErrorKind::Internal, message).with_retryable(true)),
        }
    }

    /// Why it did not work, and whether trying the same again is of no use.
    pub(crate) fn failure(&self) -> Option<(&Error, bool)> {
        let error = self.result.as_ref().err()?;
        let kind = error.kind();
        let ends = matches!(self.action, Action::Stop | Action::Remove(_));
        let last = match kind {
            // Somebody else's stop came in between, and the wish still stands.
            ErrorKind::Superseded => false,
            _ if error.is_retryable() => false,
            // A node that shall end must end: only what the platform will never do is given up.
            _ if ends => matches!(
                kind,
                ErrorKind::OwnedByOther
                    | ErrorKind::Unsupported
                    | ErrorKind::NotAllowed
                    | ErrorKind::InvalidConfig
            ),
            _ => true,
        };
        Some((error, last))
    }
}

/// The ports that a node had, to be on disk before its record goes.
#[derive(Debug)]
pub(crate) struct KeepPorts {
    pub(crate) node_id: NodeId,
    pub(crate) ports: BTreeMap<String, u16>,
    /// Told when they are.
    pub(crate) kept: oneshot::Sender<Result<()>>,
}

/// How long a call may take beyond what its request asks for, with no news of how far it is: an image's pull, a
/// volume's making. A call whose answer is lost would else hold its node up for ever.
const SLACK: Duration = Duration::from_secs(600);

/// Looks at the node, decides, and does what is to be done. It may be dropped at any point and begun again. `heard`
/// changes with each news of how far it is.
pub(crate) async fn settle(
    platform: Arc<dyn Platform>,
    entry: Entry,
    keep_ports: mpsc::Sender<KeepPorts>,
    mut heard: watch::Receiver<()>,
) -> Settled {
    let limit = SLACK + asked_for(&entry.wish.want);
    let work = act(platform, entry, keep_ports);
    tokio::pin!(work);
    loop {
        tokio::select! {
            settled = &mut work => return settled,
            Ok(()) = heard.changed() => {}
            () = tokio::time::sleep(limit) => break,
        }
    }
    Settled {
        action: Action::Leave,
        observed: Err(unseen()),
        result: Err(Error::new(
            ErrorKind::Timeout,
            format!("the platform did not answer for {limit:?}"),
        )),
    }
}

/// How long the request itself allows a spawn or a stop to take.
fn asked_for(want: &Want) -> Duration {
    let Some(config) = want.config() else {
        return Duration::ZERO;
    };
    let ready = match config.ready {
        ReadyMode::Started => Duration::ZERO,
        ReadyMode::Alive { for_ } => for_,
        ReadyMode::Healthy { timeout } => timeout,
    };
    // An update stops and spawns.
    ready + config.stop.grace
}

/// The error of a look, which says nothing of the wish: whatever kept the platform from looking, it is tried again. Only that the
/// node is somebody else's, or that its record is damaged, was seen.
fn unlooked(error: Error) -> Error {
    match error.kind() {
        ErrorKind::OwnedByOther | ErrorKind::Corrupt => error,
        _ => error.with_retryable(true),
    }
}

fn unseen() -> Error {
    Error::new(ErrorKind::Stale, "the node could not be looked at")
}

async fn act(
    platform: Arc<dyn Platform>,
    entry: Entry,
    keep_ports: mpsc::Sender<KeepPorts>,
) -> Settled {
    let node_id = entry.wish.node_id.clone();
    let settled = |action, observed, result| Settled {
        action,
        observed,
        result,
    };
    // What the actor knows comes by events and may lag: the platform is asked before anything is done.
    let before = match platform.find_node(&node_id).await {
        Ok(before) => before,
        Err(error) => {
            return settled(Action::Leave, Err(unseen()), Err(unlooked(error)));
        }
    };
    let action = decide(Some(&entry), before.as_ref());
    let result = match (action, &entry.wish.want) {
        (Action::Leave | Action::Note, _) => return settled(action, Ok(before), Ok(())),
        (Action::Spawn, Want::Running(config)) => {
            let spawned = match &before {
                // Its ports are its own: one that is taken now is taken by nobody who may have it.
                Some(_) => platform.spawn_node(with_ports(config, &entry.ports)).await,
                None => spawn_anew(platform.as_ref(), config, &entry.ports, &keep_ports).await,
            };
            match spawned {
                Ok(node) => return settled(action, Ok(Some(node)), Ok(())),
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    // A spawn of an earlier wish that was dropped may have come to its end in the meantime.
                    let before = match before {
                        Some(before) => Ok(Some(before)),
                        None => platform.find_node(&node_id).await,
                    };
                    match before {
                        Ok(Some(before)) => {
                            update(platform.as_ref(), config, &entry.ports, before, &keep_ports)
                                .await
                        }
                        Ok(None) => Err(error),
                        Err(error) => Err(unlooked(error)),
                    }
                }
                Err(error) => Err(error),
            }
        }
        (Action::Stop, _) => match platform.stop_node(&node_id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        },
        (Action::Remove(data), _) => platform.remove_node(&node_id, data).await,
        // `decide` spawns only what shall run.
        (Action::Spawn, _) => Ok(()),
    };
    let after = platform.find_node(&node_id).await;
    settled(action, after, result)
}

/// The node is there with other settings: stops it, removes it with its data kept, and spawns it on the ports it had.
async fn update(
    platform: &dyn Platform,
    config: &SpawnConfig,
    known: &BTreeMap<String, u16>,
    before: SpawnedNode,
    keep_ports: &mpsc::Sender<KeepPorts>,
) -> Result<()> {
    let node_id = &config.node_id;
    let open = config.ports.iter().filter(|(_, port)| **port == 0);
    let ports: BTreeMap<_, _> = open
        .filter_map(|(name, _)| {
            let port = before.ports.get(name).or(known.get(name))?;
            Some((name.clone(), *port))
        })
        .collect();
    if !ports.is_empty() {
        keep(keep_ports, node_id, ports.clone()).await?;
    }
    platform.stop_node(node_id).await?;
    platform.remove_node(node_id, DataPolicy::Keep).await?;
    spawn_anew(platform, config, &ports, keep_ports).await?;
    Ok(())
}

/// Spawns a node that has no record, on the ports that it had.
///
/// While it had no record they were nobody's, and another node may have been given one. The request left it open: then
/// a node that runs on another port is what was asked for, and one that waits for that port for good is not.
async fn spawn_anew(
    platform: &dyn Platform,
    config: &SpawnConfig,
    had: &BTreeMap<String, u16>,
    keep_ports: &mpsc::Sender<KeepPorts>,
) -> Result<SpawnedNode> {
    match platform.spawn_node(with_ports(config, had)).await {
        Err(error) if error.kind() == ErrorKind::PortInUse && !had.is_empty() => {
            // On disk first, so that the node that comes to be is the one that is asked for later on.
            keep(keep_ports, &config.node_id, BTreeMap::new()).await?;
            platform.spawn_node(config.clone()).await
        }
        result => result,
    }
}

/// Has the ports of a node kept on disk; returns when they are.
async fn keep(
    keep_ports: &mpsc::Sender<KeepPorts>,
    node_id: &NodeId,
    ports: BTreeMap<String, u16>,
) -> Result<()> {
    let (kept, told) = oneshot::channel();
    let request = KeepPorts {
        node_id: node_id.clone(),
        ports,
        kept,
    };
    let ended = || Error::new(ErrorKind::Superseded, "the agent is ending");
    keep_ports.send(request).await.map_err(|_| ended())?;
    told.await.map_err(|_| ended())?
}

/// The request with the ports that it leaves open filled in where they are known.
fn with_ports(config: &SpawnConfig, known: &BTreeMap<String, u16>) -> SpawnConfig {
    let mut config = config.clone();
    for (name, port) in &mut config.ports {
        if *port == 0
            && let Some(known) = known.get(name)
        {
            *port = *known;
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Exit, Failure, FailureReason, Program, StopPolicy};
    use grid_platform_testing::{Fault, Faults, World};
    use grid_proto::Wish;
    use tokio::time::Instant;

    use super::*;

    async fn settle_alone(
        platform: Arc<dyn Platform>,
        entry: Entry,
        keep_ports: mpsc::Sender<KeepPorts>,
    ) -> Settled {
        let (_news, heard) = watch::channel(());
        settle(platform, entry, keep_ports, heard).await
    }

    fn config() -> SpawnConfig {
        SpawnConfig::builder("n1", Program::binary("memory:server", [""; 0]))
            .port(0)
            .build()
            .unwrap()
    }

    fn entry(config: SpawnConfig) -> Entry {
        Entry::new(Wish {
            node_id: config.node_id.clone(),
            generation: 1,
            want: Want::Running(Box::new(config)),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_does_not_hold_a_node_up_for_ever() {
        let world = World::new();
        let faults = Faults::new(Arc::new(world.open()), 1);
        faults.add(Fault::drop_answer().on("spawn_node").times(1));
        let platform = Arc::new(faults);
        let (keep, _kept) = mpsc::channel(1);
        let settled = settle_alone(platform.clone(), entry(config()), keep.clone()).await;
        let (error, last) = settled.failure().unwrap();
        assert_eq!((error.kind(), last), (ErrorKind::Timeout, false));
        let settled = settle_alone(platform, entry(config()), keep).await;
        assert!(settled.failure().is_none());
        assert_eq!(
            world.boots(&config().node_id).len(),
            1,
            "it was there already"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_told_of_may_take_as_long_as_it_takes() {
        let faults = Faults::new(Arc::new(World::new().open()), 1);
        faults.add(Fault::drop_answer().on("spawn_node").times(1));
        let (keep, _kept) = mpsc::channel(1);
        let (news, heard) = watch::channel(());
        let begun = Instant::now();
        let telling = async {
            for _ in 0..10 {
                tokio::time::sleep(SLACK / 2).await;
                news.send_replace(());
            }
            std::future::pending::<()>().await;
        };
        let settled = tokio::select! {
            settled = settle(Arc::new(faults), entry(config()), keep, heard) => settled,
            () = telling => unreachable!(),
        };
        let (error, _) = settled.failure().unwrap();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(begun.elapsed() > 5 * SLACK, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_comes_to_be_after_the_look_is_updated_as_one_that_was_there() {
        let world = World::new();
        let old = world.open().spawn_node(config()).await.unwrap();
        let faults = Faults::new(Arc::new(world.open()), 1);
        // As if it had not been there yet.
        faults.add(
            Fault::before(ErrorKind::NotFound)
                .on("get_node_status")
                .times(1),
        );
        let mut changed = config();
        changed.stop.grace = Duration::from_secs(3);
        let (keep, mut kept) = mpsc::channel::<KeepPorts>(1);
        let answer = async {
            let request = kept.recv().await.unwrap();
            request.kept.send(Ok(())).unwrap();
        };
        let platform = Arc::new(faults);
        let (settled, ()) = tokio::join!(settle_alone(platform, entry(changed), keep), answer);
        assert!(settled.failure().is_none(), "{settled:?}");
        let node = settled.observed.unwrap().unwrap();
        assert!(node.state.is_running());
        assert_eq!(node.ports, old.ports);
        assert_ne!(node.uid, old.uid);
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_that_is_cut_off_at_any_call_ends_on_the_same_port() {
        for operation in ["stop_node", "remove_node", "spawn_node"] {
            for after in [false, true] {
                let world = World::new();
                let faults = Faults::new(Arc::new(world.open()), 1);
                let platform: Arc<dyn Platform> = Arc::new(world.open());
                let old = platform.spawn_node(config()).await.unwrap();
                let fault = if after { Fault::after } else { Fault::before };
                // The update's spawn is the second: the first one found the conflict.
                let skip = u64::from(operation == "spawn_node");
                faults.add(
                    fault(ErrorKind::Unavailable)
                        .on(operation)
                        .skip(skip)
                        .times(1),
                );
                let faults: Arc<dyn Platform> = Arc::new(faults);

                let mut changed = config();
                changed.stop = StopPolicy {
                    grace: Duration::from_secs(3),
                    ..StopPolicy::default()
                };
                let mut entry = entry(changed);
                let (keep, mut kept) = mpsc::channel::<KeepPorts>(1);
                let (settled, ports) = tokio::join!(
                    settle_alone(Arc::clone(&faults), entry.clone(), keep.clone()),
                    async {
                        let request = kept.recv().await.unwrap();
                        request.kept.send(Ok(())).unwrap();
                        request.ports
                    }
                );
                let (error, last) = settled.failure().unwrap();
                assert_eq!((error.kind(), last), (ErrorKind::Unavailable, false));
                assert_eq!(ports, old.ports, "on disk before the record went");
                entry.ports = ports;
                // The next try, as the actor makes it: what it may have to keep again is known already.
                let answer = async {
                    while let Some(request) = kept.recv().await {
                        request.kept.send(Ok(())).unwrap();
                    }
                };
                let again = async {
                    let settled = settle_alone(faults, entry, keep).await;
                    assert!(
                        settled.failure().is_none(),
                        "{operation} {after}: {settled:?}"
                    );
                };
                tokio::join!(again, answer);
                let new = platform.get_node_status(&old.node_id).await.unwrap();
                assert_eq!(new.ports, old.ports, "{operation}, after {after}");
                assert!(new.state.is_running());
                assert_ne!(new.uid, old.uid);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_whose_port_was_given_away_in_between_ends_on_another_one() {
        // Taken at the first try, and at the try after an agent was killed behind the remove.
        for killed in [false, true] {
            let world = World::new();
            let platform: Arc<dyn Platform> = Arc::new(world.open());
            let old = platform.spawn_node(config()).await.unwrap();
            let mut changed = config();
            changed.stop.grace = Duration::from_secs(3);
            let mut entry = entry(changed);
            let takes = |port: u16| {
                SpawnConfig::builder("n2", Program::binary("memory:server", [""; 0]))
                    .port(port)
                    .build()
                    .unwrap()
            };
            let asked: Arc<dyn Platform> = if killed {
                entry.ports = old.ports.clone();
                platform
                    .remove_node(&old.node_id, DataPolicy::Keep)
                    .await
                    .unwrap();
                platform.spawn_node(takes(old.ports["main"])).await.unwrap();
                Arc::clone(&platform)
            } else {
                let faults = Faults::new(Arc::new(world.open()), 1);
                // The first spawn finds the conflict; the second one is the update's.
                let taken = Fault::before(ErrorKind::PortInUse).on("spawn_node");
                faults.add(taken.skip(1).times(1));
                Arc::new(faults)
            };
            let (keep, mut kept) = mpsc::channel::<KeepPorts>(1);
            let answer = async {
                let mut last = None;
                while let Some(request) = kept.recv().await {
                    last = Some(request.ports);
                    request.kept.send(Ok(())).unwrap();
                }
                last
            };
            let (settled, last) = tokio::join!(settle_alone(asked, entry, keep), answer);
            assert!(settled.failure().is_none(), "{settled:?}");
            assert_eq!(last, Some(BTreeMap::new()), "the port is no longer its own");
            let new = platform.get_node_status(&old.node_id).await.unwrap();
            assert!(new.state.is_running());
            assert_eq!(new.ports.len(), 1);
            if killed {
                assert_ne!(new.ports, old.ports);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_has_a_record_keeps_its_port_and_says_that_it_is_taken() {
        let world = World::new();
        let platform: Arc<dyn Platform> = Arc::new(world.open());
        let old = platform.spawn_node(config()).await.unwrap();
        platform.stop_node(&old.node_id).await.unwrap();
        let faults = Faults::new(Arc::new(world.open()), 1);
        faults.add(
            Fault::before(ErrorKind::PortInUse)
                .on("spawn_node")
                .times(1),
        );
        let (keep, _kept) = mpsc::channel::<KeepPorts>(1);
        let settled = settle_alone(Arc::new(faults), entry(config()), keep).await;
        let (error, last) = settled.failure().unwrap();
        assert_eq!((error.kind(), last), (ErrorKind::PortInUse, true));
        let node = platform.get_node_status(&old.node_id).await.unwrap();
        assert_eq!((node.ports, node.uid), (old.ports, old.uid));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_gives_no_node_up() {
        for (kind, skip, expect) in [
            (ErrorKind::Internal, 0, false),
            (ErrorKind::PermissionDenied, 0, false),
            (ErrorKind::OwnedByOther, 0, true),
            (ErrorKind::Corrupt, 0, true),
            // The look behind a conflict.
            (ErrorKind::Internal, 1, false),
        ] {
            let world = World::new();
            let faults = Faults::new(Arc::new(world.open()), 1);
            let look = Fault::before(kind).on("get_node_status");
            faults.add(look.skip(skip).times(1));
            if skip > 0 {
                let conflict = Fault::before(ErrorKind::Conflict).on("spawn_node");
                faults.add(conflict.times(1));
            }
            let (keep, _kept) = mpsc::channel(1);
            let settled = settle_alone(Arc::new(faults), entry(config()), keep).await;
            let (error, last) = settled.failure().unwrap();
            assert_eq!((error.kind(), last), (kind, expect), "{kind} {skip}");
        }
    }

    #[test]
    fn what_is_given_up() {
        let node = config().node_id;
        let died = Failure::new(FailureReason::Exited, "exit code 1").with_exit(Exit::Code(1));
        let failed = || Error::spawn_failed(&node, died.clone());
        let of = |kind| Error::new(kind, "words");
        let check = |action, error: Error, expect| {
            let kind = error.kind();
            let settled = Settled {
                action,
                observed: Ok(None),
                result: Err(error),
            };
            let last = settled.failure().map(|(_, last)| last);
            assert_eq!(last, Some(expect), "{action:?} {kind}");
        };
        check(Action::Spawn, failed(), true);
        check(Action::Spawn, of(ErrorKind::PortInUse), true);
        check(Action::Spawn, of(ErrorKind::NotAllowed), true);
        check(Action::Spawn, of(ErrorKind::Unavailable), false);
        check(Action::Spawn, of(ErrorKind::Superseded), false);
        check(
            Action::Spawn,
            of(ErrorKind::Internal).with_retryable(true),
            false,
        );
        check(Action::Stop, of(ErrorKind::Internal), false);
        check(Action::Stop, of(ErrorKind::OwnedByOther), true);
        check(
            Action::Remove(DataPolicy::Keep),
            of(ErrorKind::Unconfirmed),
            false,
        );
        check(
            Action::Remove(DataPolicy::Keep),
            of(ErrorKind::PermissionDenied),
            false,
        );
    }
}
