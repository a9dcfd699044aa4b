//! Figment's errors in this project's words.

use figment::error::{Actual, Error, Kind};

use crate::{ConfigError, Source, Sources};

/// What is wrong, where it stands, and the mend.
pub(crate) fn explain(error: &Error, sources: &Sources, prefix: Option<&str>) -> ConfigError {
    let key = error.path.join(".");
    let source = sources.at(&error.path);
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let mut path = error.path.clone();
            // Figment's path ends with the field already where it knew it.
            if path.last() != Some(name) {
                path.push(name.clone());
            }
            let source = sources.at(&path);
            let message = format!("unknown key `{}` in {source}", path.join("."));
            ConfigError::new(message).with_hint(nearest_key(&path, known, &source, prefix))
        }
        Kind::UnknownVariant(found, known) => {
            let problem = format!("is `{found}`, which is none of its values");
            ConfigError::about(&key, &source, problem).with_hint(match nearest(found, known) {
                Some(near) => format!("Did you mean `{near}`? The values are {}.", list(known)),
                None => format!("The values are {}.", list(known)),
            })
        }
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            let problem = format!("is {}, not {}", actual(found), expected(wanted));
            ConfigError::about(&key, &source, problem)
                .with_hint(format!("Set it to {}.", expected(wanted)))
        }
        Kind::MissingField(name) => {
            let mut path = error.path.clone();
            path.push(name.clone().into_owned());
            ConfigError::about(&path.join("."), &source, "is missing")
                .with_hint(format!("Set `{}`.", path.join(".")))
        }
        Kind::Message(message) => {
            ConfigError::about(&key, &source, format!("cannot be used: {message}"))
        }
        other => ConfigError::about(&key, &source, format!("cannot be used: {other}")),
    }
}

fn nearest_key(
    path: &[String],
    known: &[&'static str],
    source: &Source,
    prefix: Option<&str>,
) -> String {
    let (name, section) = match path {
        [section @ .., name] => (name.as_str(), section),
        [] => ("", path),
    };
    let full = |key: &'static str| -> Vec<&str> {
        section.iter().map(String::as_str).chain([key]).collect()
    };
    match (nearest(name, known), source, prefix) {
        (Some(near), Source::Environment { .. }, Some(prefix)) => format!(
            "Did you mean `{prefix}{}`?",
            full(near).join("__").to_uppercase()
        ),
        (Some(near), ..) => format!("Did you mean `{}`?", full(near).join(".")),
        (None, ..) if section.is_empty() => format!("The keys here are {}.", list(known)),
        (None, ..) => format!("The keys of `{}` are {}.", section.join("."), list(known)),
    }
}

/// The nearest of `known`, if one is near enough to be meant.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let scored = known
        .iter()
        .map(|key| (strsim::jaro_winkler(name, key), *key));
    scored
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, key)| key)
}

fn list(known: &[&'static str]) -> String {
    let quoted: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
    match quoted.as_slice() {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => quoted.concat(),
    }
}

fn actual(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => format!("`{value}`"),
        Actual::Unsigned(value) => format!("the number {value}"),
        Actual::Signed(value) => format!("the number {value}"),
        Actual::Float(value) => format!("the number {value}"),
        Actual::Str(value) => format!("the text {value:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Serde's word for a type in people's words, with the range where there is one.
fn expected(wanted: &str) -> String {
    match wanted {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a whole number from 0 up".to_owned(),
        "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" | "path string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        other if other.starts_with("struct ") => "a section".to_owned(),
        other => other.to_owned(),
    }
}
