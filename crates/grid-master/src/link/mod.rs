//! The agents' side: one session per agent, and a stream per log that somebody reads.

mod hello;
mod logs;
mod outbox;
mod serve;
mod service;

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use grid_platform_api::{Error, ErrorKind, Timestamp};
use grid_proto::v1;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;

pub(crate) use logs::{LogHub, LogReader, broken_off};
pub(crate) use outbox::Outbox;
pub(crate) use serve::serve;
pub(crate) use service::Link;

/// How long a question may wait for its answer.
const ASK: Duration = Duration::from_secs(10);

/// When an agent was heard. What follows from it goes by the instant: the host's clock may be set at any time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) instant: Instant,
    /// For people.
    pub(crate) at: Timestamp,
}

impl Heard {
    pub(crate) fn now() -> Self {
        Self {
            instant: Instant::now(),
            at: Timestamp::now(),
        }
    }
}

type Answer = Result<String, ApiError>;

/// An agent's session.
pub(crate) struct Session {
    pub(crate) agent: String,
    pub(crate) install_id: String,
    pub(crate) outbox: Outbox,
    questions: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_question: AtomicU64,
    heard: Mutex<Heard>,
    pub(crate) ended: CancellationToken,
    /// A newer session speaks for the agent.
    replaced: AtomicBool,
}

impl Session {
    pub(crate) fn new(agent: String, install_id: String) -> Self {
        Self {
            agent,
            install_id,
            outbox: Outbox::default(),
            questions: Mutex::new(HashMap::new()),
            next_question: AtomicU64::new(1),
            heard: Mutex::new(Heard::now()),
            ended: CancellationToken::new(),
            replaced: AtomicBool::new(false),
        }
    }

    /// Notes that the agent was heard now.
    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Heard::now();
    }

    /// When the agent was heard last.
    pub(crate) fn heard(&self) -> Heard {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the session because a newer one has begun.
    pub(crate) fn replace(&self) {
        self.replaced.store(true, Ordering::Release);
        self.end();
    }

    /// Ends the session; whoever waits for an answer is told so.
    pub(crate) fn end(&self) {
        self.ended.cancel();
        self.questions().clear();
    }

    fn questions(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the agent and waits for its answer, a JSON text.
    ///
    /// # Errors
    /// The agent's own; `Unavailable` when the session ends first, `Timeout` when no answer comes.
    pub(crate) async fn ask(&self, about: v1::question::About) -> Answer {
        let request_id = self.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.questions().insert(request_id, answer);
        let _forget = Forget {
            session: self,
            request_id,
        };
        let question = v1::Question {
            request_id,
            about: Some(about),
        };
        self.outbox
            .message(v1::from_master::Message::Question(question))?;
        // The session may have ended before the question was among those that `end` drops.
        let broken = || ApiError::from(disconnected(&self.agent));
        tokio::select! {
            answer = tokio::time::timeout(ASK, answered) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(broken()),
                Err(_) => Err(Error::new(
                    ErrorKind::Timeout,
                    format!("the agent `{}` did not answer within {} s", self.agent, ASK.as_secs()),
                )
                .with_hint("Look into the agent's log; its platform may hang.")
                .into()),
            },
            () = self.ended.cancelled() => Err(broken()),
        }
    }

    fn answer(&self, answer: v1::Answer) {
        if let Some(waiting) = self.questions().remove(&answer.request_id) {
            let result = match grid_proto::report_from_json(&answer.error_json) {
                Some(error) => Err(error.into()),
                None => Ok(answer.json),
            };
            // Nobody may be waiting any more.
            let _ = waiting.send(result);
        }
    }
}

/// Takes the question back when nobody waits for its answer any more.
struct Forget<'a> {
    session: &'a Session,
    request_id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.session.questions().remove(&self.request_id);
    }
}

/// The agent is not there to be asked.
pub(crate) fn disconnected(agent: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the agent `{agent}` is not connected"),
    )
    .with_hint(format!(
        "Start the agent `{agent}`; `grid agents` shows who is heard."
    ))
}
