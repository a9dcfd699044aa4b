//! What a program is told of its place.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{MAIN_PORT, NodeId};

/// What a program learns by placeholders in its arguments and by its environment, so that a stock server
/// is a node with no wrapper.
///
/// | placeholder | environment | what |
/// |---|---|---|
/// | `{node_id}` | `SUTRA_NODE_ID` | the node's id |
/// | `{bind}` | `SUTRA_BIND` | the address to bind |
/// | `{published}` | `SUTRA_PUBLISHED` | the address at which the platform lets clients in |
/// | `{port}` | `SUTRA_PORT` | the main port to bind |
/// | `{port.NAME}` | `SUTRA_PORT_NAME` | another port to bind |
/// | `{data_path}` | `SUTRA_DATA_PATH` | its data, as the program sees it |
/// | `{secrets_dir}` | `SUTRA_SECRETS_DIR` | the folder of its secrets |
///
/// ```
/// use grid_platform_api::{NodeId, Place};
/// let place = Place {
///     node_id: NodeId::new("n1")?,
///     bind: "127.0.0.1".parse().unwrap(),
///     published: "127.0.0.1".parse().unwrap(),
///     ports: [("main".to_owned(), 6379)].into(),
///     data_path: "/data".into(),
///     secrets_dir: None,
/// };
/// assert_eq!(place.expand("--port={port}"), "--port=6379");
/// assert_eq!(place.expand("{not_ours}"), "{not_ours}");
/// # Ok::<(), grid_platform_api::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's id.
    pub node_id: NodeId,
    /// The address the program binds.
    pub bind: IpAddr,
    /// The address at which clients are let in: the request's own, where what the program binds is a container's. A
    /// program that wants credentials beyond loopback goes by this one.
    pub published: IpAddr,
    /// The ports the program binds, by name; the main one is [`MAIN_PORT`].
    pub ports: BTreeMap<String, u16>,
    /// Its data, as the program sees it.
    pub data_path: String,
    /// The folder of its secrets, if it has any.
    pub secrets_dir: Option<String>,
}

impl Place {
    /// `text` with every placeholder that is known replaced, in one pass; others stay as they are.
    pub fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, from_open) = rest.split_at(open);
            out.push_str(before);
            match from_open
                .find('}')
                .and_then(|close| Some((close, self.value(&from_open[1..close])?)))
            {
                Some((close, value)) => {
                    out.push_str(&value);
                    rest = &from_open[close + 1..];
                }
                None => {
                    out.push('{');
                    rest = &from_open[1..];
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn value(&self, name: &str) -> Option<String> {
        match name {
            "node_id" => Some(self.node_id.to_string()),
            "bind" => Some(self.bind.to_string()),
            "published" => Some(self.published.to_string()),
            "data_path" => Some(self.data_path.clone()),
            "secrets_dir" => self.secrets_dir.clone(),
            "port" => self.ports.get(MAIN_PORT).map(u16::to_string),
            _ => self
                .ports
                .get(name.strip_prefix("port.")?)
                .map(u16::to_string),
        }
    }

    /// The `SUTRA_*` environment.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([
            ("SUTRA_NODE_ID".to_owned(), self.node_id.to_string()),
            ("SUTRA_BIND".to_owned(), self.bind.to_string()),
            ("SUTRA_PUBLISHED".to_owned(), self.published.to_string()),
            ("SUTRA_DATA_PATH".to_owned(), self.data_path.clone()),
        ]);
        if let Some(dir) = &self.secrets_dir {
            env.insert("SUTRA_SECRETS_DIR".to_owned(), dir.clone());
        }
        for (name, port) in &self.ports {
            let key = if name == MAIN_PORT {
                "SUTRA_PORT".to_owned()
            } else {
                format!("SUTRA_PORT_{}", name.to_uppercase().replace('-', "_"))
            };
            env.insert(key, port.to_string());
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let place = Place {
            node_id: NodeId::new("n1").unwrap(),
            bind: "::1".parse().unwrap(),
            published: "10.0.0.1".parse().unwrap(),
            ports: [("main".to_owned(), 1), ("peer-a".to_owned(), 2)].into(),
            data_path: "/d/{port}".into(),
            secrets_dir: None,
        };
        let check = |text: &str, expect: &str| assert_eq!(place.expand(text), expect);
        check("{port}{port.peer-a}", "12");
        check("http://[{bind}]:{port}/", "http://[::1]:1/");
        check("{published}", "10.0.0.1");
        check("{data_path}", "/d/{port}");
        check("{{port}}", "{1}");
        check("{", "{");
        check("{port", "{port");
        check("{}", "{}");
        check("{secrets_dir}", "{secrets_dir}");
        check("{\"a\":\"{node_id}\"}", "{\"a\":\"n1\"}");
        assert_eq!(place.environment()["SUTRA_PORT_PEER_A"], "2");
    }
}
