//! An API server in memory, with a cluster of one host behind it, for what a real one cannot be made to do: answers that are lost, watches
//! that break, versions that go back.
//!
//! It has the objects of one namespace with uids and versions, and all that happened to them, which watches read. What goes wrong is said
//! by the test (`trouble.rs`); what the cluster's own parts do with pods and claims is in `cluster.rs`.

mod cluster;
mod objects;
mod reply;
mod request;
mod trouble;
mod watching;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use hyper::{Request, Response, StatusCode, header::RETRY_AFTER};
use kube::client::Body;
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

use crate::{access::Access, transport};

pub(crate) use cluster::{Host, LATE};
pub(crate) use objects::Saved;
pub(crate) use trouble::{Counted, Upset, WatchUpset};

use objects::Objects;
use reply::Reply;
use request::Asked;
use trouble::Trouble;

pub(crate) const NAMESPACE: &str = "grid";
/// How long a busy server asks to wait, in seconds.
pub(crate) const BUSY: u64 = 2;

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: Objects,
    trouble: Trouble,
    host: Host,
    /// Changes with whatever a watch has to look at.
    news: watch::Sender<u64>,
}

impl State {
    fn tell(&self) {
        self.news.send_modify(|it| *it += 1);
    }
}

impl Fake {
    /// A client of its own, as one process has it.
    pub(crate) fn access(&self) -> Access {
        let this = self.clone();
        let client = self.state().trouble.new_client();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { this.serve(client, request).await }
        });
        let (client, calls) = transport::client_of(service, NAMESPACE);
        Access::with_client(client, NAMESPACE, calls)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.state().objects.get(resource, name).cloned()
    }

    /// All objects of a kind.
    pub(crate) fn all(&self, resource: &str) -> Vec<Value> {
        self.state().objects.all(resource)
    }

    /// All objects: kind, name and what they are.
    pub(crate) fn everything(&self) -> Vec<(String, String, Value)> {
        self.state().objects.everything()
    }

    /// How many objects of that kind and name were ever made.
    pub(crate) fn made(&self, resource: &str, name: &str) -> usize {
        self.state().objects.made(resource, name)
    }

    /// Changes an object, or makes it, as somebody else would.
    pub(crate) fn edit(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        state.objects.edit(resource, name, change);
        state.tell();
    }

    /// Takes an object away at once, whatever keeps it.
    pub(crate) fn delete(&self, resource: &str, name: &str) {
        let mut state = self.state();
        state.objects.remove(resource, name);
        state.tell();
    }

    /// All objects and their version, as a backup has them.
    pub(crate) fn save(&self) -> Saved {
        self.state().objects.save()
    }

    /// Puts a backup back: the server comes up with it, and its versions go on from there.
    pub(crate) fn restore(&self, saved: Saved) {
        let mut state = self.state();
        state.objects.restore(saved);
        state.trouble.cut_all();
        state.tell();
    }

    /// Forgets what happened until now: no watch goes on from before.
    pub(crate) fn compact(&self) {
        self.state().objects.compact();
    }

    /// How the cluster's host behaves from now on.
    pub(crate) fn host(&self, change: impl FnOnce(&mut Host)) {
        change(&mut self.state().host);
    }

    async fn serve(&self, client: u64, request: Request<Body>) -> io::Result<Response<Reply>> {
        let asked = Asked::of(request).await;
        let upset = self.state().trouble.meet(client, &asked);
        match upset {
            Some(Upset::Silent) => std::future::pending().await,
            Some(Upset::Cut) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(Upset::Failed) => {
                return Ok(refused(500, "InternalError", "etcdserver: leader changed"));
            }
            Some(Upset::Unavailable) => {
                let words = "the server is currently unable to handle the request";
                return Ok(refused(503, "ServiceUnavailable", words));
            }
            Some(Upset::Busy) => {
                let mut busy = refused(429, "TooManyRequests", "too many requests");
                busy.headers_mut().insert(RETRY_AFTER, BUSY.into());
                return Ok(busy);
            }
            Some(Upset::Lost | Upset::CutAfter | Upset::SilentAfter | Upset::Late(_)) | None => {}
        }
        let answer = match asked.is_watch() {
            true => self.watch(asked),
            false => self.act(&asked),
        };
        match upset {
            Some(Upset::CutAfter) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Upset::SilentAfter) => std::future::pending().await,
            Some(Upset::Lost) => Ok(refused(504, "Timeout", "request did not complete")),
            Some(Upset::Late(time)) => {
                sleep(time).await;
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    fn act(&self, asked: &Asked) -> Response<Reply> {
        let (code, answer) = {
            let mut state = self.state();
            let answer = match state.trouble.refusal(asked) {
                Some(refusal) => refusal,
                None => {
                    let State { objects, host, .. } = &mut *state;
                    objects.act(asked, host)
                }
            };
            state.tell();
            answer
        };
        if code < 300 {
            self.follow_up(asked);
        }
        match answer {
            // A log is its text.
            Value::String(text) => reply(code, Reply::whole(text)),
            answer => reply(code, Reply::whole(answer.to_string())),
        }
    }
}

fn reply(code: u16, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn refused(code: u16, reason: &str, message: &str) -> Response<Reply> {
    let (code, status) = objects::refusal(code, reason, message);
    reply(code, Reply::whole(status.to_string()))
}
