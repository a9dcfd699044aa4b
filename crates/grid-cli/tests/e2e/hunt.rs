//! Finds a value in whatever form it may have been written down.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, Engine};

/// What is hunted, and the name it is called by when it is found: the value itself stands in no message.
pub(crate) struct Prey {
    name: &'static str,
    /// Each form of it, by name.
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Prey {
    /// Letters and digits alone, so that no quoting changes it.
    pub(crate) fn new(name: &'static str, value: &str) -> Self {
        assert!(value.len() >= 16 && value.bytes().all(|it| it.is_ascii_alphanumeric()));
        let each = |form: fn(u8) -> String| value.bytes().map(form).collect::<String>();
        let list = |between: &str| {
            let numbers: Vec<String> = value.bytes().map(|it| it.to_string()).collect();
            numbers.join(between)
        };
        let mut forms = vec![
            ("as it is", value.to_owned()),
            ("in hexadecimal", each(|it| format!("{it:02x}"))),
            ("in capital hexadecimal", each(|it| format!("{it:02X}"))),
            ("percent-encoded", each(|it| format!("%{it:02x}"))),
            (
                "percent-encoded in capitals",
                each(|it| format!("%{it:02X}")),
            ),
            ("as numbers", list(",")),
            ("as spaced numbers", list(", ")),
        ];
        // Where it stands in what is encoded decides how it looks: three ways.
        for before in 0..3 {
            let bytes = [&[0; 2][..before], value.as_bytes()].concat();
            let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
            forms.push((
                "in base64",
                BASE64_STANDARD.encode(&bytes)[first..last].to_owned(),
            ));
            forms.push((
                "in URLs' base64",
                BASE64_URL_SAFE.encode(&bytes)[first..last].to_owned(),
            ));
        }
        let forms = forms
            .into_iter()
            .map(|(name, form)| (name, form.into_bytes()));
        Self {
            name,
            forms: forms.collect(),
        }
    }
}

/// Several at once.
pub(crate) struct Hunt {
    preys: Vec<Prey>,
    /// Whether some form begins with these two bytes: most places are passed by with one look.
    begins: Vec<bool>,
}

impl Hunt {
    pub(crate) fn new(preys: Vec<Prey>) -> Self {
        let mut begins = vec![false; 1 << 16];
        for (_, form) in preys.iter().flat_map(|prey| &prey.forms) {
            begins[usize::from(form[0]) << 8 | usize::from(form[1])] = true;
        }
        Self { preys, begins }
    }

    /// Which stand in `bytes`, by name, and in which form.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        for at in 0..bytes.len().saturating_sub(1) {
            if !self.begins[usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])] {
                continue;
            }
            for prey in &self.preys {
                for (name, form) in &prey.forms {
                    if bytes[at..].starts_with(form) && !found.contains(&(prey.name, *name)) {
                        found.push((prey.name, *name));
                    }
                }
            }
        }
        found
    }

    /// Nothing of it is here.
    #[track_caller]
    pub(crate) fn must_miss(&self, place: &str, bytes: &[u8]) {
        let found = self.find(bytes);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }

    /// Every file beneath `dir`, by name and content, holds nothing but what `allowed` says of its path; how many files
    /// there were. What is allowed is for its owner's eyes only.
    pub(crate) fn search_files(
        &self,
        dir: &Path,
        allowed: &dyn Fn(&Path) -> Vec<&'static str>,
    ) -> usize {
        let mut files = 0;
        let Ok(entries) = fs::read_dir(dir) else {
            return files; // It was removed under our eyes.
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let place = path.display().to_string();
            self.must_miss(&format!("the name `{place}`"), place.as_bytes());
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            let kind = meta.file_type();
            if kind.is_dir() {
                files += self.search_files(&path, allowed);
                continue;
            }
            assert!(kind.is_file() || kind.is_socket(), "{place} is {kind:?}");
            let Some(bytes) = kind.is_file().then(|| fs::read(&path).ok()).flatten() else {
                continue;
            };
            files += 1;
            let found = self.find(&bytes);
            let may = allowed(&path);
            assert!(
                found
                    .iter()
                    .all(|(prey, form)| may.contains(prey) && *form == "as it is"),
                "{place} holds {found:?}, and may hold {may:?}"
            );
            assert!(
                found.is_empty() || meta.mode() & 0o077 == 0,
                "others may read {place}"
            );
        }
        files
    }

    /// Arguments and environments of every process that may be looked into hold nothing but what `allowed` says of an
    /// environment.
    pub(crate) fn search_processes(&self, allowed: &dyn Fn(u32) -> Vec<&'static str>) {
        let mut looked = 0;
        for entry in fs::read_dir("/proc").unwrap() {
            let Some(pid) = entry
                .unwrap()
                .file_name()
                .to_str()
                .and_then(|it| it.parse::<u32>().ok())
            else {
                continue;
            };
            // A process that ends while it is looked at is none.
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            looked += usize::from(!environment.is_empty());
            let shown = String::from_utf8_lossy(&arguments).into_owned();
            let found = self.find(&arguments);
            assert!(found.is_empty(), "the arguments of {pid} hold {found:?}");
            let found = self.find(&environment);
            if found.is_empty() {
                continue;
            }
            let may = allowed(pid);
            assert!(
                found.iter().all(|(prey, _)| may.contains(prey)),
                "the environment of {pid}, `{shown}`, holds {found:?}, and may hold {may:?}"
            );
        }
        assert!(looked > 1, "no environment could be read");
    }
}

#[test]
fn every_form_is_found_wherever_it_stands() {
    let value = "Quarry0123456789";
    let hunt = Hunt::new(vec![Prey::new("it", value)]);
    let hex: String = value.bytes().map(|it| format!("{it:02x}")).collect();
    let numbers = serde_json::to_string(value.as_bytes()).unwrap();
    for text in [
        value.to_owned(),
        format!("x{value}y"),
        hex,
        numbers,
        format!("{:?}", value.as_bytes()),
        BASE64_STANDARD.encode(value),
        BASE64_STANDARD.encode(format!("a{value}b")),
        BASE64_STANDARD.encode(format!("ab{value}")),
    ] {
        assert!(!hunt.find(text.as_bytes()).is_empty(), "{text}");
    }
    hunt.must_miss("another", b"Quarry012345678, Quarry012345678");
}
