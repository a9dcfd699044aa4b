//! Values written as plain text: of the environment and of flags.

use figment::{
    error::{Actual, Kind},
    value::{Dict, Value},
};

/// The value as TOML has it, else the text itself.
pub(crate) fn guess(raw: &str) -> Value {
    let parsed = toml::from_str::<Dict>(&format!("value = {raw}"));
    match parsed
        .ok()
        .map(|mut table| (table.len(), table.remove("value")))
    {
        // One key only: a text with line ends could hold others.
        Some((1, Some(value))) => value,
        _ => Value::from(raw),
    }
}

/// The text as what was expected in its place; `None` when it cannot be that either.
pub(crate) fn retype(raw: &str, fault: &Kind) -> Option<Value> {
    let Kind::InvalidType(found, expected) = fault else {
        return None;
    };
    let parts = || {
        raw.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    if expected.contains("string") {
        Some(Value::from(raw))
    } else if expected.contains("sequence") {
        Some(Value::from(parts().map(str::to_owned).collect::<Vec<_>>()))
    } else if expected.contains("map") && matches!(found, Actual::Str(_)) {
        let pairs = parts().map(|part| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim().to_owned(), Value::from(value.trim())))
        });
        pairs.collect::<Option<Dict>>().map(Value::from)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses() {
        let check = |raw: &str, expect: Value| assert_eq!(guess(raw), expect, "{raw}");
        check("4", Value::from(4));
        check("true", Value::from(true));
        check("plain text", Value::from("plain text"));
        check("\"4\"", Value::from("4"));
        check("[\"a\"]", Value::from(vec!["a"]));
        check("1\nother = 2", Value::from("1\nother = 2"));
        check("127.0.0.1:7000", Value::from("127.0.0.1:7000"));
    }
}
