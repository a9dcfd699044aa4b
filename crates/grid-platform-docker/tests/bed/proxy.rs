//! A socket before an engine's, at which what is asked and what is answered goes astray on purpose.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use grid_platform_testing::Outcome;
use grid_testbed::Api;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// What becomes of a call.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// The connection is closed, and the engine hears nothing.
    Cut,
    /// The engine does it, and its answer is lost.
    Lose,
    /// The engine hears nothing, and this is its answer: a status and a body.
    Answer(u16, String),
    /// The engine hears nothing, and the connection is closed when the rule is over.
    Stall,
    /// The engine answers, and that is held back until the rule is over.
    Hold,
}

struct Rule {
    number: usize,
    method: &'static str,
    parts: Vec<String>,
    does: Does,
    /// How many more calls it is for.
    left: usize,
    met: watch::Sender<usize>,
    over: watch::Sender<bool>,
}

/// A rule that is in force until it is dropped, or used up.
pub(crate) struct InForce {
    rules: Arc<Mutex<Vec<Rule>>>,
    number: usize,
    met: watch::Receiver<usize>,
}

impl InForce {
    /// Waits until so many calls came under it.
    pub(crate) async fn met(&self, times: usize) {
        let mut met = self.met.clone();
        let waiting = met.wait_for(|it| *it >= times);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "no such call came");
    }
}

impl Drop for InForce {
    fn drop(&mut self) {
        let mut rules = lock(&self.rules);
        if let Some(at) = rules.iter().position(|it| it.number == self.number) {
            rules.remove(at).over.send_replace(true);
        }
    }
}

fn lock(rules: &Mutex<Vec<Rule>>) -> MutexGuard<'_, Vec<Rule>> {
    rules.lock().unwrap_or_else(|it| it.into_inner())
}

/// The socket.
pub(crate) struct Proxy {
    dir: tempfile::TempDir,
    rules: Arc<Mutex<Vec<Rule>>>,
}

impl Proxy {
    /// A socket before that of an engine, at which all goes its way as long as there is no rule.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn before(api: &Api) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        let listener = UnixListener::bind(dir.path().join("engine.sock"))?;
        let engine = api.host().strip_prefix("unix://").ok_or("no socket")?;
        let engine = PathBuf::from(engine);
        let rules = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&rules);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, engine.clone(), Arc::clone(&all)));
            }
        });
        Ok(Self { dir, rules })
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}/engine.sock", self.dir.path().display())
    }

    /// What becomes of the next calls by this method whose targets have all these parts.
    pub(crate) fn rule(
        &self,
        method: &'static str,
        parts: &[&str],
        times: usize,
        does: Does,
    ) -> InForce {
        let mut rules = lock(&self.rules);
        let numbers: BTreeSet<usize> = rules.iter().map(|it| it.number).collect();
        let number = numbers.last().map_or(0, |it| it + 1);
        let met = watch::Sender::new(0);
        let heard = met.subscribe();
        rules.push(Rule {
            number,
            method,
            parts: parts.iter().map(|it| (*it).to_owned()).collect(),
            does,
            left: times,
            met,
            over: watch::Sender::new(false),
        });
        InForce {
            rules: Arc::clone(&self.rules),
            number,
            met: heard,
        }
    }
}

/// What the first rule for a call does with it; who hears when it has come, and when the rule is over.
type Ruled = (Does, watch::Sender<usize>, watch::Receiver<bool>);

fn ruled(rules: &Mutex<Vec<Rule>>, method: &str, target: &str) -> Option<Ruled> {
    let mut rules = lock(rules);
    let rule = rules.iter_mut().find(|it| {
        it.left > 0 && it.method == method && it.parts.iter().all(|part| target.contains(part))
    })?;
    rule.left -= 1;
    Some((rule.does.clone(), rule.met.clone(), rule.over.subscribe()))
}

async fn serve(
    mut client: UnixStream,
    engine: PathBuf,
    rules: Arc<Mutex<Vec<Rule>>>,
) -> Option<()> {
    let head = head_of(&mut client).await?;
    let text = String::from_utf8(head.clone()).ok()?;
    let mut words = text.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let ruled = ruled(&rules, method, target);
    let count = |met: &watch::Sender<usize>| met.send_modify(|it| *it += 1);
    match ruled.clone() {
        Some((Does::Cut, met, _)) => {
            count(&met);
            return None;
        }
        Some((Does::Stall, met, mut over)) => {
            count(&met);
            let _ = over.wait_for(|it| *it).await;
            return None;
        }
        Some((Does::Answer(status, body), met, _)) => {
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status} As Told\r\nContent-Length: {length}\r\n\r\n{body}");
            client.write_all(answer.as_bytes()).await.ok()?;
            count(&met);
            return Some(());
        }
        _ => {}
    }
    let mut engine = UnixStream::connect(engine).await.ok()?;
    engine.write_all(&head).await.ok()?;
    if let Some((does, met, mut over)) = ruled {
        // It has been done once it is answered; what is asked has a body that may still be on its way.
        let (mut from, mut to) = client.split();
        let answer = {
            let (mut answers, mut hears) = engine.split();
            let asking = async {
                let _ = tokio::io::copy(&mut from, &mut hears).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                answer = head_of(&mut answers) => answer?,
                () = asking => return None,
            }
        };
        count(&met);
        if matches!(does, Does::Lose) {
            return None;
        }
        let _ = over.wait_for(|it| *it).await;
        to.write_all(&answer).await.ok()?;
    }
    copy_bidirectional(&mut client, &mut engine).await.ok()?;
    Some(())
}

/// What is read up to the end of a message's head.
async fn head_of(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}
