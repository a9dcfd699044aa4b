//! What goes wrong, as the test says.

use std::{collections::BTreeSet, time::Duration};

use hyper::Method;
use serde_json::Value;
use tokio::sync::watch;

use super::{Fake, objects, request::Asked};

/// What becomes of a request instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upset {
    /// It is done, and a proxy says that it did not complete.
    Lost,
    /// It is not done: 500.
    Failed,
    /// It is not done: 503.
    Unavailable,
    /// It is not done: 429, with the time to wait.
    Busy,
    /// It is not done, and the connection breaks.
    Cut,
    /// It is done, and the connection breaks.
    CutAfter,
    /// It is not done, and never answered.
    Silent,
    /// It is done, and never answered.
    SilentAfter,
    /// It is done at once and answered as late as that.
    Late(Duration),
}

/// What becomes of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchUpset {
    /// It ends, as when its time is over.
    End,
    /// Its connection breaks.
    Break,
    /// Its next event breaks off in the middle.
    Middle,
    /// It tells of an error with this code, and ends.
    Error(u16),
    /// It tells nothing any more.
    Deaf,
}

/// Which requests count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Counted {
    /// None.
    #[default]
    None,
    /// Those that work on nodes.
    Work,
    /// All but watches.
    All,
}

/// What a test is to go wrong with the requests that count.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Upset {
        at: usize,
        times: usize,
        upset: Upset,
    },
    /// Whoever sends it is dead from then on.
    Kill { at: usize, done: bool },
}

#[derive(Default)]
pub(super) struct Trouble {
    by_method: Vec<(Method, Upset)>,
    by_call: Vec<(String, Upset)>,
    watches: Vec<(String, WatchUpset)>,
    is_silent: bool,
    watches_end: bool,
    lag: Duration,
    /// What a role does not give.
    refused: Option<Method>,
    counted: Counted,
    calls: Vec<String>,
    plan: Option<Plan>,
    clients: u64,
    dead: BTreeSet<u64>,
    /// How many were killed.
    killed: watch::Sender<usize>,
    /// How often all watches were cut.
    pub(super) cuts: u64,
    watched: usize,
}

impl Trouble {
    pub(super) fn new_client(&mut self) -> u64 {
        self.clients += 1;
        self.clients
    }

    pub(super) fn cut_all(&mut self) {
        self.cuts += 1;
    }

    pub(super) fn watches_end(&self) -> bool {
        self.watches_end
    }

    /// How late watches tell what happens.
    pub(super) fn lag(&self) -> Duration {
        self.lag
    }

    /// What becomes of this request.
    pub(super) fn meet(&mut self, client: u64, asked: &Asked) -> Option<Upset> {
        if self.is_silent || self.dead.contains(&client) {
            return Some(Upset::Silent);
        }
        if asked.is_watch() {
            self.watched += 1;
        }
        let counts = match self.counted {
            Counted::None => false,
            Counted::Work => !matches!(asked.resource.as_str(), "leases" | "events"),
            Counted::All => true,
        };
        if counts && !asked.is_watch() {
            self.calls.push(asked.call());
            let number = self.calls.len();
            match self.plan {
                Some(Plan::Upset { at, times, upset }) if (at..at + times).contains(&number) => {
                    return Some(upset);
                }
                Some(Plan::Kill { at, done }) if at == number => {
                    self.dead.insert(client);
                    self.killed.send_modify(|it| *it += 1);
                    return Some(if done {
                        Upset::SilentAfter
                    } else {
                        Upset::Silent
                    });
                }
                _ => {}
            }
        }
        if let Some(at) = self.by_call.iter().position(|it| it.0 == asked.call()) {
            return Some(self.by_call.remove(at).1);
        }
        let first = self.by_method.first();
        match first.is_some_and(|it| it.0 == asked.method) {
            true => Some(self.by_method.remove(0).1),
            false => None,
        }
    }

    /// What becomes of this watch now; an event is at hand, or is not.
    pub(super) fn meet_watch(&mut self, resource: &str, event: bool) -> Option<WatchUpset> {
        let meets =
            |it: &(String, WatchUpset)| it.0 == resource && (event || it.1 != WatchUpset::Middle);
        let at = self.watches.iter().position(meets)?;
        Some(self.watches.remove(at).1)
    }

    /// The refusal of what the caller may not do.
    pub(super) fn refusal(&self, asked: &Asked) -> Option<(u16, Value)> {
        if self.refused.as_ref() != Some(&asked.method) {
            return None;
        }
        let verb = match asked.verb {
            "PUT" => "update",
            _ => "use",
        };
        let resource = &asked.resource;
        let words = format!(
            "{resource} is forbidden: User \"agent\" cannot {verb} resource \"{resource}\" in API group \"\" in the namespace \"grid\""
        );
        Some(objects::refusal(403, "Forbidden", &words))
    }
}

impl Fake {
    /// The next request of this method is upset.
    pub(crate) fn upset(&self, method: Method, upset: Upset) {
        self.state().trouble.by_method.push((method, upset));
    }

    /// The next such call is upset: `POST pods`.
    pub(crate) fn upset_call(&self, call: &str, upset: Upset) {
        self.state().trouble.by_call.push((call.to_owned(), upset));
    }

    /// A watch of these is upset: the one that there is, or the next.
    pub(crate) fn upset_watch(&self, resource: &str, upset: WatchUpset) {
        let mut state = self.state();
        state.trouble.watches.push((resource.to_owned(), upset));
        state.tell();
    }

    /// Whether every watch ends as soon as it begins.
    pub(crate) fn watches_end(&self, end: bool) {
        let mut state = self.state();
        state.trouble.watches_end = end;
        state.trouble.cut_all();
        state.tell();
    }

    /// From now on watches tell so late what happens.
    pub(crate) fn lag(&self, lag: Duration) {
        self.state().trouble.lag = lag;
    }

    pub(crate) fn silence(&self, is_silent: bool) {
        self.state().trouble.is_silent = is_silent;
    }

    /// From now on the caller may not do this.
    pub(crate) fn refuse(&self, method: Method) {
        self.state().trouble.refused = Some(method);
    }

    /// From now on these are counted.
    pub(crate) fn count(&self, counted: Counted) {
        let trouble = &mut self.state().trouble;
        (trouble.counted, trouble.plan) = (counted, None);
        trouble.calls.clear();
    }

    /// Of the requests that count, those from this one on are upset, so many times.
    pub(crate) fn upset_nth(&self, counted: Counted, at: usize, times: usize, upset: Upset) {
        self.count(counted);
        self.state().trouble.plan = Some(Plan::Upset { at, times, upset });
    }

    /// Whoever sends this one of the requests that count is killed when it is sent, or when it is done.
    pub(crate) fn kill_at(&self, counted: Counted, at: usize, done: bool) {
        self.count(counted);
        self.state().trouble.plan = Some(Plan::Kill { at, done });
    }

    /// Returns when somebody is killed after this call.
    pub(crate) fn killed(&self) -> impl Future<Output = ()> + use<> {
        let mut killed = self.state().trouble.killed.subscribe();
        let before = *killed.borrow_and_update();
        async move {
            killed.wait_for(|it| *it > before).await.unwrap();
        }
    }

    /// The requests that counted so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().trouble.calls.clone()
    }

    /// Returns when one of the requests that counted so far is this one.
    pub(crate) async fn asked(&self, call: &str) {
        let mut news = self.state().news.subscribe();
        while !self.calls().iter().any(|it| it == call) {
            news.changed().await.unwrap();
        }
    }

    /// How many watches were begun so far.
    pub(crate) fn watched(&self) -> usize {
        self.state().trouble.watched
    }
}
