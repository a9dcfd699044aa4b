//! Values with a form of their own.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How the agent logs, to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A line of text for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Which programs a request may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Any: for who runs an agent for requests of his own.
    Any,
    /// These: absolute paths, or bare names.
    Only(Vec<PathBuf>),
}

impl Default for Programs {
    /// None.
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl Serialize for Programs {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => s.serialize_str("any"),
            Self::Only(list) => list.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Programs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Programs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`any` or a list of programs")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Programs, E> {
                Ok(match text.trim() {
                    "any" => Programs::Any,
                    list => Programs::Only(
                        list.split(',')
                            .map(|it| PathBuf::from(it.trim()))
                            .filter(|it| !it.as_os_str().is_empty())
                            .collect(),
                    ),
                })
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Programs, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Programs::Only)
            }
        }

        d.deserialize_any(Visitor)
    }
}

/// The first and the last port of a range, written `20000-29999`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, which is not before the first.
    pub last: u16,
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('-').and_then(|(first, last)| {
            let first = first.trim().parse().ok().filter(|port| *port != 0)?;
            let last = last.trim().parse().ok().filter(|port| *port >= first)?;
            Some(Self { first, last })
        });
        parsed.ok_or_else(|| {
            format!("`{text}` is not a range of ports, which is written `20000-29999`")
        })
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        format!("{}-{}", range.first, range.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges() {
        let check = |text: &str, expect: Option<(u16, u16)>| {
            let range = text.parse::<PortRange>().ok();
            assert_eq!(range.map(|r| (r.first, r.last)), expect, "{text}");
        };
        check("20000-29999", Some((20_000, 29_999)));
        check("5 - 5", Some((5, 5)));
        check("6-5", None);
        check("0-5", None);
        check("1-70000", None);
        check("80", None);
    }

    #[test]
    fn programs_are_any_or_a_list() {
        let check = |json: &str, expect: Option<Programs>| {
            let read = serde_json::from_str::<Programs>(json).ok();
            assert_eq!(read, expect, "{json}");
        };
        let list = |list: &[&str]| Programs::Only(list.iter().map(PathBuf::from).collect());
        check("\"any\"", Some(Programs::Any));
        check("[]", Some(list(&[])));
        check("[\"any\"]", Some(list(&["any"])));
        check(
            "\"redis-server, /bin/x\"",
            Some(list(&["redis-server", "/bin/x"])),
        );
        check("7", None);
        let text = serde_json::to_string(&Programs::Any).unwrap();
        assert_eq!(
            serde_json::from_str::<Programs>(&text).unwrap(),
            Programs::Any
        );
    }
}
