//! The environment: read here and nowhere else.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use crate::ConfigError;

/// The environment of this process, or one made for a test.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// This process's. Variables whose names are not UTF-8 are left out; none of ours is.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .collect(),
        )
    }

    /// One of these variables and no others.
    pub fn of<N: Into<String>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// A variable's text; `None` when it is not set or is empty.
    ///
    /// # Errors
    /// When the value is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.0.get(name) {
            Some(value) if !value.is_empty() => match value.to_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(ConfigError::new(format!(
                    "the environment variable `{name}` is not UTF-8"
                ))
                .with_hint("Set it to plain text, or unset it.")),
            },
            _ => Ok(None),
        }
    }

    /// A variable as a path; `None` when it is not set or is empty.
    pub fn path_of(&self, name: &str) -> Option<PathBuf> {
        let value = self.0.get(name).filter(|value| !value.is_empty())?;
        Some(PathBuf::from(value))
    }

    /// The names that start with `prefix`, ordered.
    pub(crate) fn names_under(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.0
            .keys()
            .filter(move |name| name.starts_with(prefix))
            .map(String::as_str)
    }

    /// `HOME`.
    pub fn home(&self) -> Option<PathBuf> {
        self.path_of("HOME")
    }

    /// The directories of `PATH`, in their order.
    pub fn search_path(&self) -> Vec<PathBuf> {
        self.0
            .get("PATH")
            .map(|value| std::env::split_paths(value).collect())
            .unwrap_or_default()
    }

    /// Whether this is a continuous-integration run: `CI` is set, and not to `0` or `false`.
    pub fn is_ci(&self) -> bool {
        self.0
            .get("CI")
            .is_some_and(|value| !value.is_empty() && value != "0" && value != "false")
    }

    /// What to log, by `SUTRA_LOG` or else `RUST_LOG`: `info`, or `grid_agent=debug,info`.
    pub fn log_filter(&self) -> Option<String> {
        let text = |name| self.text(name).ok().flatten();
        text("SUTRA_LOG").or_else(|| text("RUST_LOG"))
    }

    /// The master's address, by `SUTRA_MASTER`.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn master(&self) -> Result<Option<String>, ConfigError> {
        self.text("SUTRA_MASTER")
    }

    /// Where state is kept when nobody says where: `/var/lib/sutra-grid` for root, else
    /// `$XDG_STATE_HOME/sutra-grid`, else `$HOME/.local/state/sutra-grid`.
    ///
    /// # Errors
    /// When neither variable gives an absolute path.
    pub fn state_dir(&self) -> Result<PathBuf, ConfigError> {
        self.state_dir_of(rustix::process::geteuid().is_root())
    }

    fn state_dir_of(&self, root: bool) -> Result<PathBuf, ConfigError> {
        if root {
            return Ok(PathBuf::from("/var/lib/sutra-grid"));
        }
        // The XDG base directory specification has relative paths ignored.
        let absolute = |path: &PathBuf| path.is_absolute();
        let xdg = self.path_of("XDG_STATE_HOME").filter(absolute);
        let home = || {
            self.home()
                .filter(absolute)
                .map(|home| home.join(".local/state"))
        };
        xdg.or_else(home)
            .map(|base| base.join("sutra-grid"))
            .ok_or_else(|| {
                ConfigError::new("there is no place for state: `HOME` is not set")
                    .with_hint("Name a directory by `--state-dir`, or set `XDG_STATE_HOME`.")
            })
    }

    /// The host's name; `localhost` where it cannot be known.
    pub fn hostname(&self) -> String {
        let kernel = rustix::system::uname();
        let name = kernel.nodename().to_string_lossy().into_owned();
        if name.is_empty() {
            "localhost".to_owned()
        } else {
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_dirs() {
        let check = |root, variables: &[(&str, &str)], expect: Option<&str>| {
            let environment = Environment::of(variables.iter().copied());
            let dir = environment.state_dir_of(root).ok();
            assert_eq!(dir, expect.map(PathBuf::from), "{variables:?}");
        };
        check(true, &[], Some("/var/lib/sutra-grid"));
        check(true, &[("HOME", "/root")], Some("/var/lib/sutra-grid"));
        check(false, &[("HOME", "/h")], Some("/h/.local/state/sutra-grid"));
        let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/x")];
        check(false, &xdg, Some("/x/sutra-grid"));
        let relative = [("HOME", "/h"), ("XDG_STATE_HOME", "x")];
        check(false, &relative, Some("/h/.local/state/sutra-grid"));
        check(false, &[("HOME", "")], None);
        check(false, &[], None);
    }

    #[test]
    fn ci_is_what_is_set_and_not_off() {
        let check = |value: &str, expect| {
            assert_eq!(Environment::of([("CI", value)]).is_ci(), expect, "{value}");
        };
        check("true", true);
        check("1", true);
        check("", false);
        check("0", false);
        check("false", false);
    }

    #[test]
    fn the_host_has_a_name() {
        assert!(!Environment::default().hostname().is_empty());
    }
}
