//! Values that must not be seen.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A secret's value: never printed, never serialized.
///
/// In JSON a value is read from a string; it is written as `null`, and `null` is read back as
/// [withheld](SecretValue::is_withheld). So a stored [`SpawnConfig`](crate::SpawnConfig) keeps the names of
/// its secrets and loses their values; who must carry values over a wire does it by
/// [`expose`](SecretValue::expose), on purpose.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretValue(Option<Vec<u8>>);

impl SecretValue {
    /// A secret of these bytes.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(Some(value.into()))
    }

    /// A secret whose value is not here.
    pub fn withheld() -> Self {
        Self(None)
    }

    /// Whether the value is not here.
    pub fn is_withheld(&self) -> bool {
        self.0.is_none()
    }

    /// The bytes, for the one place that hands them to the program.
    pub fn expose(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        if let Some(bytes) = &mut self.0 {
            for byte in bytes.iter_mut() {
                *byte = 0;
            }
            // Keeps the compiler from leaving the writes out as dead.
            std::hint::black_box(bytes);
        }
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_withheld() {
            "<withheld>"
        } else {
            "<secret>"
        })
    }
}

impl From<&str> for SecretValue {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_none()
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // What serde would say of another type quotes it.
        let value = Option::<String>::deserialize(d)
            .map_err(|_| serde::de::Error::custom("a secret is not a text"))?;
        Ok(Self(value.map(String::into_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_value() {
        let secret = SecretValue::new("hunter2");
        assert_eq!(format!("{secret:?}"), "<secret>");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "null");
        let read: SecretValue = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(read, secret);
        let refused = serde_json::from_str::<SecretValue>("123456").unwrap_err();
        assert!(!refused.to_string().contains("123456"), "{refused}");
        assert!(
            serde_json::from_str::<SecretValue>("null")
                .unwrap()
                .is_withheld()
        );
    }
}
