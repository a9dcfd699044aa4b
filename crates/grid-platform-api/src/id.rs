//! Identities: nodes, their incarnations and their owners.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};

use crate::{Error, ErrorKind};

/// What every native object of a node is called: this prefix and the node's id.
pub const NATIVE_PREFIX: &str = "sutra-grid-";

/// The name of a node, unique in its grid.
///
/// The grammar is `[a-z]([-a-z0-9]{0,38}[a-z0-9])?`: 1 to 40 characters that are valid, behind
/// [`NATIVE_PREFIX`], as a directory, a systemd unit, a container and a pod name. It is checked once,
/// here, so that no adapter has to escape or distrust an id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeId(String);

impl NodeId {
    /// The longest id, in characters.
    pub const MAX_LEN: usize = 40;

    /// Checks `id` against the grammar.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the rule.
    pub fn new(id: impl Into<String>) -> Result<Self, Error> {
        let id = id.into();
        match grammar_fault(&id) {
            None => Ok(Self(id)),
            Some(fault) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("the node id `{}` {fault}", printable(&id)),
            )
            .with_hint(
                "Use 1 to 40 characters: lower-case letters, digits and `-`, with a letter first and no `-` last.",
            )),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the node's native object: `sutra-grid-<id>`.
    pub fn native_name(&self) -> String {
        format!("{NATIVE_PREFIX}{}", self.0)
    }

    /// The id of a native object's name, when the name is one of ours.
    pub fn from_native_name(name: &str) -> Option<Self> {
        name.strip_prefix(NATIVE_PREFIX)
            .and_then(|id| Self::new(id).ok())
    }
}

/// Why `id` is outside the grammar, as the end of a sentence; `None` when it is inside.
fn grammar_fault(id: &str) -> Option<&'static str> {
    let bytes = id.as_bytes();
    let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    match (bytes.first(), bytes.last()) {
        (None, _) | (_, None) => Some("is empty"),
        _ if bytes.len() > NodeId::MAX_LEN => Some("is longer than 40 characters"),
        _ if !bytes.iter().all(allowed) => Some("has a character other than a-z, 0-9 and `-`"),
        (Some(first), _) if !first.is_ascii_lowercase() => Some("does not start with a letter"),
        (_, Some(b'-')) => Some("ends with `-`"),
        _ => None,
    }
}

/// Outsiders' text made safe for one line of an error: escaped and cut to 60 characters.
pub fn printable(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        out.push_str("...");
    }
    out
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for NodeId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Self::new(s)
    }
}

impl TryFrom<String> for NodeId {
    type Error = Error;

    fn try_from(s: String) -> Result<Self, Error> {
        Self::new(s)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(text).map_err(|e| {
            de::Error::custom(match e.hint() {
                Some(hint) => format!("{e}. {hint}"),
                None => e.to_string(),
            })
        })
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Makes the id of 16 bytes from a cryptographically secure random source.
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(crate::digest::hex(&bytes))
            }

            /// The id as 32 lower-case hexadecimal digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
                if text.len() == 32 && text.bytes().all(hex) {
                    Ok(Self(text))
                } else {
                    Err(Error::new(
                        ErrorKind::InvalidConfig,
                        format!(
                            concat!("`{}` is not a ", stringify!($name), " of 32 hexadecimal digits"),
                            printable(&text)
                        ),
                    ))
                }
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(s: &str) -> Result<Self, Error> {
                s.to_owned().try_into()
            }
        }
    };
}

hex_id! {
    /// One incarnation of a node: made anew when a node's record is created, kept over restarts,
    /// stop and start. Two nodes that had the same id at different times have different uids.
    NodeUid
}

hex_id! {
    /// Who owns native objects: the random install id kept in the agent's (or embedder's) state.
    /// It is not a display name: two agents with the same name are still two owners.
    OwnerId
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grammar() {
        let check = |id: &str, expect: bool| {
            assert_eq!(NodeId::new(id).is_ok(), expect, "{id:?}");
        };
        check("a", true);
        check("node-1", true);
        check(&"a".repeat(40), true);
        check(&"a".repeat(41), false);
        check("", false);
        check("-a", false);
        check("a-", false);
        check("1a", false);
        check("A", false);
        check("a_b", false);
        check("../etc", false);
        check("a\0b", false);
        check("é", false);
        check("a\n", false);
    }

    #[test]
    fn hostile_text_stays_on_one_line() {
        let error = NodeId::new(format!("x\n\u{1b}[31m{}", "y".repeat(200))).unwrap_err();
        assert!(!error.to_string().contains('\n'));
        assert!(!error.to_string().contains('\u{1b}'));
        assert!(error.to_string().len() < 200);
    }

    proptest! {
        #[test]
        fn every_id_of_the_grammar_round_trips(id in "[a-z]([-a-z0-9]{0,38}[a-z0-9])?") {
            let node = NodeId::new(id.clone()).unwrap();
            prop_assert_eq!(NodeId::from_native_name(&node.native_name()), Some(node.clone()));
            let json = serde_json::to_string(&node).unwrap();
            prop_assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), node);
        }

        #[test]
        fn nothing_else_gets_in(text in "\\PC{0,50}") {
            let inside = !text.is_empty() && text.len() <= 40
                && text.starts_with(|c: char| c.is_ascii_lowercase())
                && !text.ends_with('-')
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            prop_assert_eq!(NodeId::new(text).is_ok(), inside);
        }
    }
}
