//! The layers and how they become one value.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    providers::Serialized,
    value::{Dict, Value},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{ConfigError, Environment, Source, Sources, explain, file, text};

/// Settings, and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// Where each value came from, for errors that are found later.
    pub sources: Sources,
}

/// Reads settings layer by layer; see the crate's documentation for the order.
#[derive(Debug)]
#[must_use]
pub struct Loader {
    environment: Environment,
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
    prefix: Option<String>,
    flags: Vec<Leaf>,
}

/// One value of the environment or of a flag.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) path: Vec<String>,
    pub(crate) source: Source,
    /// The value as it was written.
    pub(crate) raw: String,
    pub(crate) value: Value,
}

impl Leaf {
    fn new(path: Vec<String>, source: Source, raw: String) -> Self {
        let value = text::guess(&raw);
        Self {
            path,
            source,
            raw,
            value,
        }
    }
}

fn split(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

impl Loader {
    /// With this environment and nothing else yet.
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            file: None,
            variables: Vec::new(),
            prefix: None,
            flags: Vec::new(),
        }
    }

    /// Adds a TOML file, which must exist; `None` is no file.
    pub fn file<P: Into<PathBuf>>(mut self, path: Option<P>) -> Self {
        self.file = path.map(Into::into);
        self
    }

    /// Reads `key` (`section.name`) from one variable of its own.
    pub fn variable(mut self, variable: &str, key: &str) -> Self {
        self.variables.push((variable.to_owned(), key.to_owned()));
        self
    }

    /// Reads every variable that starts with `prefix` and `__`: the rest, in lower case, is the key, with `__`
    /// where the file has a dot.
    pub fn environment_prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(format!("{prefix}__"));
        self
    }

    /// Sets `key` by a flag; `None` is a flag that was not given. `flag` is its name with its dashes.
    pub fn flag<V: ToString>(mut self, flag: &str, key: &str, value: Option<V>) -> Self {
        if let Some(value) = value {
            let source = Source::Flag {
                flag: flag.to_owned(),
            };
            self.flags
                .push(Leaf::new(split(key), source, value.to_string()));
        }
        self
    }

    /// The settings.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML; an unknown key, with the nearest one; a value of another type.
    pub fn load<T: Serialize + DeserializeOwned + Default>(self) -> Result<Loaded<T>, ConfigError> {
        let mut sources = Sources::default();
        let file = match &self.file {
            Some(path) => read_file(path, &mut sources)?,
            None => Dict::new(),
        };
        // The file has to make sense alone: a value above it would hide a section that is none.
        let alone =
            Figment::from(Serialized::defaults(T::default())).merge(Serialized::defaults(&file));
        alone
            .extract::<T>()
            .map_err(|error| explain::explain(&error, &sources, self.prefix.as_deref()))?;
        let mut leaves = self.environment_leaves()?;
        leaves.extend(self.flags.iter().cloned());
        for leaf in &leaves {
            sources.0.push((leaf.path.clone(), leaf.source.clone()));
        }
        let mut retyped = vec![false; leaves.len()];
        loop {
            let mut figment = alone.clone();
            for leaf in &leaves {
                figment = figment.merge(Serialized::defaults(nest(&leaf.path, &leaf.value)));
            }
            let error = match figment.extract::<T>() {
                Ok(settings) => return Ok(Loaded { settings, sources }),
                Err(error) => error,
            };
            // A plain text has no type of its own: what the settings expect decides, once.
            let at = leaves.iter().rposition(|leaf| error.path == leaf.path);
            if let Some(at) = at
                && !retyped[at]
                && let Some(value) = text::retype(&leaves[at].raw, &error.kind)
            {
                retyped[at] = true;
                leaves[at].value = value;
                continue;
            }
            return Err(explain::explain(&error, &sources, self.prefix.as_deref()));
        }
    }

    fn environment_leaves(&self) -> Result<Vec<Leaf>, ConfigError> {
        let mut leaves = Vec::new();
        let mut add = |variable: &str, path: Vec<String>| {
            if let Some(raw) = self.environment.text(variable)? {
                let source = Source::Environment {
                    variable: variable.to_owned(),
                };
                leaves.push(Leaf::new(path, source, raw));
            }
            Ok(())
        };
        for (variable, key) in &self.variables {
            add(variable, split(key))?;
        }
        if let Some(prefix) = &self.prefix {
            for variable in self.environment.names_under(prefix) {
                let key = variable[prefix.len()..].to_lowercase();
                add(variable, key.split("__").map(str::to_owned).collect())?;
            }
        }
        Ok(leaves)
    }
}

/// The largest settings file, in bytes: far above every one that makes sense.
const MAX_FILE: u64 = 1 << 20;

fn read_file(path: &Path, sources: &mut Sources) -> Result<Dict, ConfigError> {
    let fault = |why: &dyn std::fmt::Display, hint: &str| {
        ConfigError::new(format!(
            "cannot read the settings file `{}`: {why}",
            path.display()
        ))
        .with_hint(hint)
    };
    let rights = "Check the path, and that this user may read it.";
    // Looked at first: to open a pipe or to read a device may last for ever.
    let meta = std::fs::metadata(path).map_err(|error| fault(&error, rights))?;
    if !meta.is_file() {
        return Err(fault(&"it is no file", "Name a file of TOML."));
    }
    if meta.len() > MAX_FILE {
        return Err(fault(
            &format_args!("it has {} bytes, more than {MAX_FILE}", meta.len()),
            "Name a file of settings; data is kept elsewhere.",
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fault(&error, rights))?;
    file::parse(path, &text, sources)
}

/// `value` under its path, as a table of tables.
fn nest(path: &[String], value: &Value) -> Dict {
    match path {
        [] => Dict::new(),
        [last] => Dict::from([(last.clone(), value.clone())]),
        [first, rest @ ..] => Dict::from([(first.clone(), Value::from(nest(rest, value)))]),
    }
}
