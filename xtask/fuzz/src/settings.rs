//! The agent's settings: a file, variables and a flag.

use std::cell::RefCell;
use std::io::{Seek, Write};

use grid_agent::Settings;
use grid_config::Environment;

thread_local! {
    /// The file of all runs: to make one each time would take most of the time.
    static FILE: RefCell<tempfile::NamedTempFile> =
        RefCell::new(tempfile::NamedTempFile::new().expect("a temporary file"));
}

/// Settings of any text, in each place that they are read from: they are loaded or refused in people's words, and what is
/// loaded is complete.
pub fn settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).replace('\0', " ");
    FILE.with_borrow_mut(|file| {
        file.as_file().set_len(0).expect("a file that can be cut");
        file.rewind().expect("a file");
        file.write_all(text.as_bytes()).expect("room on the disk");
        check(&[], Some(file.path()), None);
    });
    check(&[("SUTRA_AGENT__AGENT__LABELS", &text)], None, None);
    check(&[("SUTRA_AGENT__STORAGE__PROGRAMS", &text)], None, None);
    if let Some((key, value)) = text.split_once('=') {
        let name = format!("SUTRA_AGENT__{}", key.trim());
        check(&[(&name, value)], None, None);
    }
    check(&[], None, Some(&text));
}

fn check(variables: &[(&str, &str)], file: Option<&std::path::Path>, flag: Option<&str>) {
    let home = [("HOME", "/home/me")];
    let environment = Environment::of(variables.iter().copied().chain(home));
    let loader = Settings::loader(environment.clone()).file(file).flag(
        "--max",
        "agent.max_storage_nodes",
        flag,
    );
    match Settings::load(loader, &environment) {
        Ok(settings) => {
            assert!(settings.agent.agent_id.is_some() && settings.storage.data_path.is_some());
            let again = settings.clone().complete(&environment).unwrap();
            assert_eq!(again, settings, "completed twice is completed once");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && !message.ends_with('.'), "{message}");
        }
    }
}
