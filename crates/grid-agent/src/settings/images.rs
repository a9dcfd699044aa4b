//! Which images an agent allows.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Which images a request may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// Any: for who runs an agent for requests of his own.
    Any,
    /// These references, and with a name alone every version of it.
    Only(Vec<String>),
}

impl Default for Images {
    /// None.
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl Serialize for Images {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => s.serialize_str("any"),
            Self::Only(list) => list.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Images;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`any` or a list of images")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Images, E> {
                Ok(match text.trim() {
                    "any" => Images::Any,
                    list => Images::Only(
                        list.split(',')
                            .map(|it| it.trim().to_owned())
                            .filter(|it| !it.is_empty())
                            .collect(),
                    ),
                })
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Images, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Images::Only)
            }
        }

        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_any_or_a_list() {
        let check = |json: &str, expect: Option<Images>| {
            assert_eq!(serde_json::from_str(json).ok(), expect, "{json}");
        };
        let list = |list: &[&str]| Images::Only(list.iter().map(|it| (*it).to_owned()).collect());
        check("\"any\"", Some(Images::Any));
        check("[\"redis\"]", Some(list(&["redis"])));
        check(
            "\"redis, r.example/x:1\"",
            Some(list(&["redis", "r.example/x:1"])),
        );
        check("7", None);
        for images in [Images::Any, list(&["x"])] {
            let text = serde_json::to_string(&images).unwrap();
            assert_eq!(serde_json::from_str::<Images>(&text).unwrap(), images);
        }
    }
}
