//! The engine's API and nothing around it: one connection that stays open, and the calls that cannot be spared.

use std::os::unix::net::UnixStream;

use super::container::Made;
use super::peer::Peer;
use crate::Result;
use crate::http::Connection;
use crate::proxy::Proxy;

/// A connection to the engine.
pub(super) struct Bare(std::cell::RefCell<Connection<UnixStream>>);

impl Bare {
    pub(super) fn connect(proxy: &Proxy) -> Result<Self> {
        let stream = UnixStream::connect(proxy.socket()?)?;
        Ok(Self(Connection::new(stream).json().into()))
    }

    /// A call, and the body of its answer.
    pub(super) fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.0.borrow_mut().request(method, path, body)
    }

    /// Deletes a container with what it has, whether it runs or not.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = format!("/containers/{name}?force=true&v=true");
        self.call("DELETE", &path, b"").map(drop)
    }
}

impl Peer for Bare {
    fn prepare(&self, made: &Made) -> Result<Vec<String>> {
        Ok(vec![made.body.to_string()])
    }

    fn start(&self, made: &Made, prepared: &[String]) -> Result<()> {
        let name = &made.name;
        let body = prepared.concat();
        self.call(
            "POST",
            &format!("/containers/create?name={name}"),
            body.as_bytes(),
        )?;
        self.call("POST", &format!("/containers/{name}/start"), b"")?;
        Ok(())
    }

    fn stop(&self, made: &Made, _: &[String]) -> Result<()> {
        let path = format!("/containers/{}/stop", made.name);
        self.call("POST", &path, b"").map(drop)
    }
}
