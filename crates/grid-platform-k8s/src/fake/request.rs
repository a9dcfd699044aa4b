//! What a request asks for.

use std::collections::BTreeMap;

use hyper::{Method, Request};
use kube::client::Body;
use serde_json::Value;

use super::NAMESPACE;

/// A request, taken apart.
pub(super) struct Asked {
    /// `LIST`, `WATCH`, `GET`, `POST`, `PUT`, `PATCH`, `DELETE`.
    pub(super) verb: &'static str,
    pub(super) method: Method,
    /// The kind in the namespace; for anything else, the path.
    pub(super) resource: String,
    pub(super) name: Option<String>,
    /// What of the object: `log`.
    pub(super) below: Option<String>,
    pub(super) query: BTreeMap<String, String>,
    pub(super) body: Value,
}

impl Asked {
    pub(super) async fn of(request: Request<Body>) -> Self {
        let method = request.method().clone();
        let uri = request.uri().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        let pairs = uri.query().unwrap_or_default().split('&');
        let query: BTreeMap<String, String> = pairs
            .filter_map(|it| it.split_once('='))
            .map(|(name, value)| (name.to_owned(), plain(value)))
            .collect();
        let behind = uri.path().split_once(&format!("/namespaces/{NAMESPACE}/"));
        let mut parts = behind.map_or(uri.path(), |it| it.1).splitn(3, '/');
        let (resource, name, below) = match behind {
            Some(_) => (parts.next(), parts.next(), parts.next()),
            None => (Some(uri.path()), None, None),
        };
        let verb = match method {
            Method::GET if query.get("watch").is_some_and(|it| it == "true") => "WATCH",
            Method::GET if name.is_none() => "LIST",
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "OTHER",
        };
        Self {
            verb,
            resource: resource.unwrap_or_default().to_owned(),
            name: name.map(str::to_owned),
            below: below.map(str::to_owned),
            method,
            query,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        }
    }

    pub(super) fn is_watch(&self) -> bool {
        self.verb == "WATCH"
    }

    /// The call, as a test names it: `POST pods`.
    pub(super) fn call(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }

    /// Whether an object has the labels that are asked for.
    pub(super) fn selects(&self, object: &Value) -> bool {
        let selector = self.query.get("labelSelector");
        selector
            .map_or("", String::as_str)
            .split(',')
            .filter_map(|it| it.split_once('='))
            .all(|(name, value)| object["metadata"]["labels"][name] == value)
    }
}

/// A part of a query without its escapes.
fn plain(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        plain.push(char::from(u8::from_str_radix(code, 16).unwrap()));
        plain.push_str(rest);
    }
    plain
}
