//! Where the master is.

use std::{fmt, net::IpAddr, str::FromStr};

/// The address of a master's port for agents, on this host: without TLS nothing else is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MasterAddress(String);

/// Why an address cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MasterAddressError {
    /// The end of a sentence that begins with the key.
    pub(crate) problem: String,
    pub(crate) hint: &'static str,
}

impl MasterAddress {
    /// `http://host:port`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0)
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MasterAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())
    }
}

impl FromStr for MasterAddress {
    type Err = MasterAddressError;

    fn from_str(text: &str) -> Result<Self, MasterAddressError> {
        const FORM: &str = "Write it as `host:port` or `http://host:port`, as in `127.0.0.1:7000`.";
        let fault = |problem: String, hint| Err(MasterAddressError { problem, hint });
        if text.starts_with("https://") {
            return fault(
                format!("is `{text}`, and this version speaks no TLS to a master"),
                "Run agent and master on one host, with `http://127.0.0.1:7000`.",
            );
        }
        let bare = text.strip_prefix("http://").unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let parts = bare.rsplit_once(':').and_then(|(host, port)| {
            let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
            let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            // An IPv6 address without brackets would make its last group the port.
            let plain = inner.is_some() || !host.contains(':');
            (plain && !host.is_empty() && !host.contains('/')).then_some((host, inner, port))
        });
        let Some((host, inner, port)) = parts else {
            return fault(format!("is `{text}`, which is no address"), FORM);
        };
        let ip = inner.unwrap_or(host).parse::<IpAddr>();
        if host != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback()) {
            return fault(
                format!(
                    "is `{text}`, which is not on this host, and `http://` carries the token in the clear"
                ),
                "Use a loopback address such as `127.0.0.1:7000`; to reach a master elsewhere, forward its port over ssh.",
            );
        }
        Ok(Self(format!("{host}:{port}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, expect: Option<&str>| {
            let parsed = text.parse::<MasterAddress>().ok();
            assert_eq!(parsed.map(|it| it.url()).as_deref(), expect, "{text}");
        };
        check("127.0.0.1:7000", Some("http://127.0.0.1:7000"));
        check("http://127.0.0.1:7000/", Some("http://127.0.0.1:7000"));
        check("localhost:1", Some("http://localhost:1"));
        check("[::1]:7000", Some("http://[::1]:7000"));
        check("::1:7000", None);
        check("https://127.0.0.1:7000", None);
        check("http://master.internal:7000", None);
        check("localhost.evil.example:7000", None);
        check("10.0.0.1:7000", None);
        check("127.0.0.1", None);
        check("127.0.0.1:0", None);
        check("127.0.0.1:7000/x", None);
        check("", None);
    }
}
