//! The supervisor: keeps master and agent running, and takes the grid down when it is asked to.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use grid_client::Client;
use tokio::{
    net::{UnixListener, UnixStream},
    process::Command,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

use super::{
    AGENT_ID, Nodes, RunLock, StateDir, Status,
    child::{Keeper, Say, Spec},
    control::{self, Answer, Connection, Request},
    down::{self, Keepers, bring_down},
    logfile,
};
use crate::{
    context::Addresses,
    error::{Error, Result},
};

/// How often the master is asked whether it serves, until it does.
const LOOK: Duration = Duration::from_millis(20);
/// How often the logs' sizes are looked at.
const BOUND: Duration = Duration::from_secs(5);

/// What to supervise.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) state: StateDir,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    /// This program.
    pub(crate) exe: PathBuf,
}

/// Somebody wants the grid down.
struct Ask {
    nodes: Nodes,
    reply: Option<mpsc::UnboundedSender<Answer>>,
}

/// Supervises until the grid is taken down: by a command, or by SIGINT, SIGTERM or SIGHUP, which mean `grid down`.
///
/// Master and agent of a supervisor that was killed are ended first; the nodes live on meanwhile.
pub(crate) async fn supervise(plan: Plan, _lock: RunLock, say: Say) -> Result<()> {
    let mut signals = Signals::new()?;
    let run = plan.state.run();
    let listener =
        control::listen(&run).map_err(|error| Error::io("make a socket in", &run, &error))?;
    down::end_leftovers(&plan.state, &*say).await?;
    forget_addresses(&plan.state.master())?;
    let (status, _) = watch::channel(Status {
        pid: std::process::id(),
        ..Status::default()
    });
    let (ask, mut asked) = mpsc::channel(1);
    tokio::spawn(serve(listener, status.clone(), ask));
    tokio::spawn(bound_logs(plan.state.clone()));
    let master = Keeper::start(master(&plan, &status), status.clone(), Arc::clone(&say));
    let mut keepers = Keepers {
        master: Some(master),
        agent: None,
    };
    let wish = tokio::select! {
        ask = asked.recv() => ask,
        () = signals.next() => None,
        addresses = first_addresses(plan.state.master()) => {
            status.send_modify(|status| status.addresses = Some(addresses.clone()));
            plan.state.set_nodes_may_run(true)?;
            let agent = agent(&plan, addresses.grpc);
            keepers.agent = Some(Keeper::start(agent, status.clone(), Arc::clone(&say)));
            tokio::select! {
                ask = asked.recv() => ask,
                () = signals.next() => None,
            }
        }
    };
    let ask = wish.unwrap_or(Ask {
        nodes: Nodes::Stop,
        reply: None,
    });
    status.send_modify(|status| status.ending = true);
    let tell = |step: &str| {
        say(step);
        if let Some(reply) = &ask.reply {
            reply.send(Answer::Step(step.to_owned())).ok();
        }
    };
    let result = tokio::select! {
        result = bring_down(&plan.state, &plan.exe, keepers, ask.nodes, &tell) => result,
        () = signals.next() => Err(Error::failed("interrupted before everything was down")
            .with_hint("What is left runs on; `grid down` ends it.")),
    };
    if let Some(reply) = &ask.reply {
        reply
            .send(match &result {
                Ok(ended) => Answer::Done(ended.clone()),
                Err(error) => Answer::Failed(error.report.clone()),
            })
            .ok();
        // The asker hangs up when it has read the answer; without one there is nobody to wait for.
        tokio::time::timeout(Duration::from_secs(5), reply.closed())
            .await
            .ok();
    }
    result.map(drop)
}

/// The signals that end a supervisor.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::failed("cannot listen to signals").with_source(&error))
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [int, term, hup] = &mut self.0;
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hup.recv() => {}
        }
    }
}

fn master(plan: &Plan, status: &watch::Sender<Status>) -> Spec {
    let (plan_, status) = (plan.clone(), status.clone());
    Spec {
        name: "master",
        log: plan.state.log("master"),
        command: Box::new(move || {
            // Where it listened once it listens again, so that agents and people find it, whatever port 0 gave.
            let (http, grpc) = match &status.borrow().addresses {
                Some(addresses) => (addresses.http, addresses.grpc),
                None => (plan_.http, plan_.grpc),
            };
            let mut command = Command::new(&plan_.exe);
            command
                .arg("__master")
                .arg("--dir")
                .arg(plan_.state.master())
                .arg("--run-lock")
                .arg(plan_.state.lock("master"))
                .args(["--http", &http.to_string(), "--grpc", &grpc.to_string()]);
            command
        }),
        status: |status| &mut status.master,
    }
}

fn agent(plan: &Plan, grpc: SocketAddr) -> Spec {
    let plan_ = plan.clone();
    Spec {
        name: "agent",
        log: plan.state.log("agent"),
        command: Box::new(move || {
            let mut command = Command::new(&plan_.exe);
            command
                .args(["__agent", "--agent-id", AGENT_ID])
                .arg("--state-dir")
                .arg(plan_.state.root())
                .arg("--dir")
                .arg(plan_.state.agent())
                .arg("--data")
                .arg(plan_.state.data())
                .arg("--run-lock")
                .arg(plan_.state.lock("agent"))
                .arg("--token-file")
                .arg(plan_.state.token("agent"))
                .args(["--grpc", &grpc.to_string()]);
            command
        }),
        status: |status| &mut status.agent,
    }
}

/// What an earlier master wrote is not where the next one listens.
fn forget_addresses(master: &Path) -> Result<()> {
    let path = master.join("addresses.json");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("delete", &path, &error))
        }
        _ => Ok(()),
    }
}

/// Returns when the master serves for the first time.
async fn first_addresses(master: PathBuf) -> Addresses {
    loop {
        if let Ok(Some(addresses)) = Addresses::read(&master)
            && let Ok(client) = Client::new(&format!("http://{}", addresses.http), None)
            && client.ready().await.is_ok()
        {
            return addresses;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn bound_logs(state: StateDir) {
    loop {
        for part in ["supervisor", "master", "agent"] {
            // A log that is not there yet is within its bounds.
            logfile::bound(&state.log(part)).ok();
        }
        tokio::time::sleep(BOUND).await;
    }
}

async fn serve(listener: UnixListener, status: watch::Sender<Status>, ask: mpsc::Sender<Ask>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream, status.subscribe(), ask.clone()));
            }
            // Out of descriptors, for example: it may pass.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// Answers one caller. One who hangs up is no fault.
async fn answer(
    stream: UnixStream,
    mut status: watch::Receiver<Status>,
    ask: mpsc::Sender<Ask>,
) -> Option<()> {
    let mut caller = Connection::new(stream);
    match caller.receive::<Request>().await.ok()?? {
        Request::Watch => loop {
            let now = status.borrow_and_update().clone();
            caller.send(&Answer::Status(now)).await.ok()?;
            status.changed().await.ok()?;
        },
        Request::Down { nodes } => {
            let (reply, mut replies) = mpsc::unbounded_channel();
            ask.send(Ask {
                nodes,
                reply: Some(reply),
            })
            .await
            .ok()?;
            while let Some(answer) = replies.recv().await {
                let last = matches!(answer, Answer::Done(_) | Answer::Failed(_));
                caller.send(&answer).await.ok()?;
                if last {
                    return Some(());
                }
            }
            None
        }
    }
}
