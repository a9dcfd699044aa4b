//! Where values come from.

use std::{fmt, path::PathBuf};

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag {
        /// Its name, with its dashes.
        flag: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File { path, line } => write!(f, "`{}` line {line}", path.display()),
            Self::Environment { variable } => write!(f, "the environment variable `{variable}`"),
            Self::Flag { flag } => write!(f, "the flag `{flag}`"),
        }
    }
}

/// Where each value of loaded settings came from.
#[derive(Clone, Debug, Default)]
pub struct Sources(pub(crate) Vec<(Vec<String>, Source)>);

impl Sources {
    /// Where the value at `key` (`section.name`) came from.
    pub fn of(&self, key: &str) -> Source {
        let parts: Vec<&str> = key.split('.').collect();
        self.at(&parts)
    }

    /// The value itself, else the last one set below it, else the last list or text it is a part of.
    pub(crate) fn at<S: AsRef<str>>(&self, key: &[S]) -> Source {
        let last = |wanted: &dyn Fn(&[String]) -> bool| {
            let found = self.0.iter().rev().find(|(path, _)| wanted(path));
            found.map(|(_, source)| source.clone())
        };
        last(&|path| same(path, key))
            .or_else(|| last(&|path| path.len() > key.len() && same(&path[..key.len()], key)))
            .or_else(|| {
                last(&|path| {
                    path.len() < key.len() && same(path, &key[..path.len()]) && !self.holds(path)
                })
            })
            .unwrap_or(Source::Default)
    }

    /// Whether it is a section with values of its own, which then say nothing about others.
    fn holds(&self, path: &[String]) -> bool {
        let below = |(other, _): &(Vec<String>, Source)| {
            other.len() > path.len() && same(&other[..path.len()], path)
        };
        self.0.iter().any(below)
    }
}

fn same<S: AsRef<str>>(left: &[String], right: &[S]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l == r.as_ref())
}
