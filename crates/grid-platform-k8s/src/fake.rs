//! An API server in memory, for what a real one cannot be made to do: objects of one namespace with uids and versions, and
//! answers that are lost.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use hyper::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::access::Access;

pub(crate) const NAMESPACE: &str = "grid";

/// What becomes of a request instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upset {
    /// It is done, and the answer is lost.
    Lost,
    /// It is not done, and the answer is lost too.
    Failed,
    /// It is never answered.
    Silent,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By resource and name.
    objects: BTreeMap<(String, String), Value>,
    versions: u64,
    uids: u64,
    upsets: VecDeque<(Method, Upset)>,
    is_silent: bool,
    /// What a role does not give.
    refused: Option<Method>,
}

impl Fake {
    pub(crate) fn access(&self) -> Access {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { this.serve(request).await }
        });
        Access::with_client(Client::new(service, NAMESPACE), NAMESPACE)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next request of this method is upset.
    pub(crate) fn upset(&self, method: Method, upset: Upset) {
        self.state().upsets.push_back((method, upset));
    }

    pub(crate) fn silence(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
    }

    /// From now on the caller may not do this.
    pub(crate) fn refuse(&self, method: Method) {
        self.state().refused = Some(method);
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    /// Changes an object, or makes it, as somebody else would.
    pub(crate) fn edit(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        let key = (resource.to_owned(), name.to_owned());
        let mut object = match state.objects.remove(&key) {
            Some(object) => object,
            None => state.fresh(json!({"metadata": {"name": name}})),
        };
        change(&mut object);
        state.touch(&mut object);
        state.objects.insert(key, object);
    }

    pub(crate) fn delete(&self, resource: &str, name: &str) {
        let key = (resource.to_owned(), name.to_owned());
        self.state().objects.remove(&key);
    }

    async fn serve(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let method = request.method().clone();
        let uri = request.uri().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let upset = {
            let mut state = self.state();
            match state.upsets.front() {
                _ if state.is_silent => Some(Upset::Silent),
                Some((of, _)) if *of == method => state.upsets.pop_front().map(|it| it.1),
                _ => None,
            }
        };
        let (code, answer) = match upset {
            Some(Upset::Silent) => std::future::pending().await,
            Some(Upset::Failed) => refused(500, "InternalError", "etcdserver: leader changed"),
            Some(Upset::Lost) => {
                self.state().act(&method, &uri, body);
                refused(504, "Timeout", "request did not complete")
            }
            None => self.state().act(&method, &uri, body),
        };
        let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        Ok(response)
    }
}

impl State {
    fn fresh(&mut self, mut object: Value) -> Value {
        self.uids += 1;
        object["metadata"]["uid"] = format!("uid-{}", self.uids).into();
        object["metadata"]["namespace"] = NAMESPACE.into();
        object
    }

    fn touch(&mut self, object: &mut Value) {
        self.versions += 1;
        object["metadata"]["resourceVersion"] = self.versions.to_string().into();
    }

    fn act(&mut self, method: &Method, uri: &hyper::Uri, body: Value) -> (u16, Value) {
        let path = uri.path();
        let (_, behind) = path.split_once("/namespaces/grid/").unwrap();
        let (resource, name) = match behind.split_once('/') {
            Some((resource, name)) => (resource.to_owned(), Some(name.to_owned())),
            None => (behind.to_owned(), None),
        };
        if self.refused.as_ref() == Some(method) {
            let verb = match *method {
                Method::PUT => "update",
                _ => "use",
            };
            let words = format!(
                "{resource} is forbidden: User \"agent\" cannot {verb} resource \"{resource}\" in API group \"\" in the namespace \"grid\""
            );
            return refused(403, "Forbidden", &words);
        }
        match (method, name) {
            (&Method::GET, Some(name)) => match self.objects.get(&(resource.clone(), name)) {
                Some(object) => (200, object.clone()),
                None => refused(404, "NotFound", &format!("{resource} not found")),
            },
            (&Method::GET, None) => {
                let items: Vec<Value> = self
                    .objects
                    .iter()
                    .filter(|((of, _), object)| *of == resource && selects(uri.query(), object))
                    .map(|(_, object)| object.clone())
                    .collect();
                (200, json!({"metadata": {}, "items": items}))
            }
            (&Method::POST, None) => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let key = (resource, name);
                if self.objects.contains_key(&key) {
                    return refused(409, "AlreadyExists", "already exists");
                }
                let mut object = self.fresh(body);
                self.touch(&mut object);
                self.objects.insert(key, object.clone());
                (201, object)
            }
            (&Method::PUT, Some(name)) => {
                let key = (resource, name);
                let Some(there) = self.objects.get(&key) else {
                    return refused(404, "NotFound", "not found");
                };
                let meta = &body["metadata"];
                let same = |field: &str| meta[field] == there["metadata"][field];
                if !same("resourceVersion") || !same("uid") {
                    return refused(409, "Conflict", "the object has been modified");
                }
                let mut object = body;
                self.touch(&mut object);
                self.objects.insert(key, object.clone());
                (200, object)
            }
            (&Method::DELETE, Some(name)) => {
                let key = (resource, name);
                let Some(there) = self.objects.get(&key) else {
                    return refused(404, "NotFound", "not found");
                };
                let wanted = &body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != there["metadata"]["uid"] {
                    return refused(409, "Conflict", "the uid is another");
                }
                self.objects.remove(&key);
                (200, json!({"kind": "Status", "status": "Success"}))
            }
            _ => refused(405, "MethodNotAllowed", path),
        }
    }
}

/// Whether the object has the labels of a query's selector.
fn selects(query: Option<&str>, object: &Value) -> bool {
    let query = query.unwrap_or_default();
    let selector = query
        .split('&')
        .find_map(|it| it.strip_prefix("labelSelector="))
        .unwrap_or_default()
        .replace("%3D", "=")
        .replace("%2C", ",");
    selector
        .split(',')
        .filter_map(|it| it.split_once('='))
        .all(|(name, value)| object["metadata"]["labels"][name] == value)
}

fn refused(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, status)
}
