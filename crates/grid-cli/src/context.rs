//! Where things are: the state directory, the master, the token.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use grid_client::Client;
use grid_config::Environment;
use grid_platform_api::{ErrorKind, NodeId};
use serde::{Deserialize, Serialize};

use crate::{
    args::{Format, Global},
    error::{Error, Result},
    local::StateDir,
};

/// What every command is given.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) environment: Environment,
}

/// Where a master listens: the `addresses.json` that it writes into its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

impl Addresses {
    /// What the master in this directory wrote; `None` if it wrote nothing.
    pub(crate) fn read(master: &Path) -> Result<Option<Self>> {
        let path = master.join("addresses.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                Error::failed(format!("cannot understand `{}`", path.display())).with_source(&error)
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, &error)),
        }
    }
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            global,
            environment: Environment::of_process(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.global.output
    }

    /// The state directory, absolute.
    pub(crate) fn state(&self) -> Result<StateDir> {
        let path = match &self.global.state_dir {
            Some(path) => path.clone(),
            None => self.environment.state_dir()?,
        };
        Ok(StateDir::new(absolute(&path)?))
    }

    /// ` --state-dir DIR`, if it takes that to find this grid again; for commands that are printed.
    pub(crate) fn again(&self) -> String {
        match &self.global.state_dir {
            Some(path) => format!(" --state-dir {}", path.display()),
            None => String::new(),
        }
    }

    /// The master that is meant.
    pub(crate) fn client(&self) -> Result<Client> {
        let named = match &self.global.master {
            Some(url) => Some(url.clone()),
            // A directory that was named is nearer than what the environment says.
            None if self.global.state_dir.is_none() => self.environment.master()?,
            None => None,
        };
        let url = match named {
            Some(url) => url,
            None => self.local_url()?,
        };
        let token = self.token()?;
        Ok(Client::new(&url, token.as_deref())?)
    }

    fn local_url(&self) -> Result<String> {
        let state = self.state()?;
        match Addresses::read(&state.master())? {
            Some(addresses) => Ok(format!("http://{}", addresses.http)),
            None => Err(Error::new(
                ErrorKind::Unavailable,
                format!("no grid is up in `{}`", state.root().display()),
            )
            .with_hint(
                "Start one with `grid up`, or name another by `--state-dir DIR` or `--master URL`.",
            )),
        }
    }

    fn token(&self) -> Result<Option<String>> {
        if let Some(path) = &self.global.token_file {
            return std::fs::read_to_string(path)
                .map(Some)
                .map_err(|error| Error::io("read the token file", path, &error));
        }
        let path = self.state()?.admin_token();
        match std::fs::read_to_string(&path) {
            Ok(token) => Ok(Some(token)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read the token file", &path, &error).with_hint(
                "The grid belongs to another user; name a token of your own by `--token-file FILE`.",
            )),
        }
    }
}

/// A path as seen from this process's directory, so that others can find it from theirs.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find", path, &error))
}

/// A node's id from the command line.
pub(crate) fn node_id(text: &str) -> Result<NodeId> {
    NodeId::new(text).map_err(|error| Error::from(error).with_exit(crate::error::Exit::Usage))
}
