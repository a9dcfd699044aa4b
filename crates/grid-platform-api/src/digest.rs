//! What a node was asked to be, as one short text.

use std::{fmt, str::FromStr};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{Error, ErrorKind, Result, SpawnConfig, id::printable};

/// The version that [`Digest::of`] writes.
const VERSION: u32 = 1;

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The key under which secrets enter a digest, so that a digest cannot be used to guess them. It belongs to
/// the owner's state and never leaves it.
#[derive(Clone)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// A key of 32 bytes from a cryptographically secure random source.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<key>")
    }
}

/// A request as one short text, `v1:<64 hexadecimal digits>`: equal for equal requests.
///
/// It covers the request as given, before ports are allocated, with defaults left out, secrets as an
/// HMAC-SHA-256 under the owner's [`DigestKey`], and without the settings of adapters. Two digests of
/// different versions say nothing about each other: compare by [`SpawnConfig::same_request`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    version: u32,
    hex: String,
}

impl Digest {
    /// The digest of `config` in the newest version.
    pub fn of(config: &SpawnConfig, key: &DigestKey) -> Self {
        let mut value = comparable(config);
        if let Some(Value::Object(secrets)) = value.get_mut("secrets") {
            for (name, slot) in secrets.iter_mut() {
                let secret = config.secrets.get(name).and_then(|s| s.expose());
                *slot = secret.map_or(Value::Null, |bytes| keyed(key, name, bytes).into());
            }
        }
        let mut text = String::new();
        canonical(&value, &mut text);
        Self {
            version: VERSION,
            hex: hex(&Sha256::digest(text.as_bytes())),
        }
    }

    /// The version of the digest's recipe.
    pub fn version(&self) -> u32 {
        self.version
    }
}

impl SpawnConfig {
    /// Whether this request is the one that was stored with `digest`.
    ///
    /// Digests of one version are compared. Across versions the stored request is compared instead, whose
    /// secrets have names and no values: a secret changed at that very moment goes unseen until the next change.
    pub fn same_request(&self, stored: &SpawnConfig, digest: &Digest, key: &DigestKey) -> bool {
        if digest.version == VERSION {
            *digest == Digest::of(self, key)
        } else {
            comparable(self) == comparable(stored)
        }
    }
}

/// The request as JSON without defaults and adapter settings; secrets are names with `null`.
fn comparable(config: &SpawnConfig) -> Value {
    // A SpawnConfig has text keys only and no floating-point numbers, so that it always has a JSON form.
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.remove("adapter");
    }
    value
}

fn keyed(key: &DigestKey, name: &str, secret: &[u8]) -> String {
    // HMAC takes keys of any length, so that this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key.0) else {
        return String::new();
    };
    // The name is bound in, so that two secrets of one value do not look alike.
    mac.update(name.as_bytes());
    mac.update(&[0]);
    mac.update(secret);
    hex(&mac.finalize().into_bytes())
}

/// JSON with sorted keys and no spaces, whatever map type `serde_json` was built with.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.keys().collect();
            keys.sort();
            out.push('{');
            for key in keys {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(&fields[key], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:{}", self.version, self.hex)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let parsed = s.strip_prefix('v').and_then(|rest| {
            let (version, hex) = rest.split_once(':')?;
            let good = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            Some(Self {
                version: version.parse().ok().filter(|_| good)?,
                hex: hex.to_owned(),
            })
        });
        parsed.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                format!("`{}` is not a digest", printable(s)),
            )
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Program, ReadyMode, SpawnConfigBuilder};

    fn base() -> SpawnConfigBuilder {
        SpawnConfig::builder("n1", Program::binary("/bin/true", ["-v"]))
            .port(0)
            .secret("s", "one".into())
    }

    #[test]
    fn equal_requests_have_equal_digests_and_others_not() {
        let key = DigestKey::from_bytes([7; 32]);
        let digest = |b: SpawnConfigBuilder| Digest::of(&b.build().unwrap(), &key);
        assert_eq!(digest(base()), digest(base()));
        assert_eq!(digest(base()), digest(base().ready(ReadyMode::default())));
        assert_eq!(
            digest(base()),
            digest(base().adapter_setting("docker", serde_json::json!({"a": 1})))
        );
        assert_ne!(digest(base()), digest(base().port(1)));
        assert_ne!(digest(base()), digest(base().secret("s", "two".into())));
        assert_ne!(digest(base()), digest(base().env("A", "")));
        let other_key = DigestKey::from_bytes([8; 32]);
        assert_ne!(
            digest(base()),
            Digest::of(&base().build().unwrap(), &other_key)
        );
    }

    #[test]
    fn versions_fall_back_to_the_stored_request() {
        let key = DigestKey::from_bytes([7; 32]);
        let config = base().build().unwrap();
        let old: Digest = format!("v0:{}", "0".repeat(64)).parse().unwrap();
        let stored: SpawnConfig =
            serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert!(config.same_request(&stored, &old, &key));
        let changed = base().memory_limit_mb(1).build().unwrap();
        assert!(!changed.same_request(&stored, &old, &key));
    }

    /// A digest is stored and outlives the program that made it: this figure changes only with `VERSION`.
    #[test]
    fn the_recipe_is_pinned() {
        let key = DigestKey::from_bytes([7; 32]);
        let digest = Digest::of(&base().build().unwrap(), &key);
        assert_eq!(
            digest.to_string(),
            "v1:ea017ffb26c061ba3b912cf8c83655055963bb0f7b3223897ec98bfde00dd0c6"
        );
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }
}
