//! TOML files, with the line of each key.

use std::path::Path;

use figment::value::Dict;
use toml::de::{DeTable, DeValue};

use crate::{ConfigError, Source, Sources};

/// The file's values; the line of each goes to `sources`.
pub(crate) fn parse(path: &Path, text: &str, sources: &mut Sources) -> Result<Dict, ConfigError> {
    let broken = |error: &toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        ConfigError::new(format!(
            "`{}` line {line} is not TOML: {}",
            path.display(),
            error.message().replace('\n', ", ")
        ))
        .with_hint(
            "Texts are written in quotes, and a section as `[section]` on a line of its own.",
        )
    };
    let table = DeTable::parse(text).map_err(|error| broken(&error))?;
    let values = toml::from_str(text).map_err(|error| broken(&error))?;
    note(path, text, table.get_ref(), &mut Vec::new(), sources);
    Ok(values)
}

fn note(
    path: &Path,
    text: &str,
    table: &DeTable<'_>,
    key: &mut Vec<String>,
    sources: &mut Sources,
) {
    for (name, value) in table {
        key.push(name.get_ref().to_string());
        let source = Source::File {
            path: path.to_owned(),
            line: line_of(text, name.span().start),
        };
        sources.0.push((key.clone(), source));
        if let DeValue::Table(inner) = value.get_ref() {
            note(path, text, inner, key, sources);
        }
        key.pop();
    }
}

/// The line of a byte, from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
