//! The layers, their order, and the words of their errors.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use grid_config::{ConfigError, Environment, Loaded, Loader, Source};
use proptest::{option::of, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    agent: Agent,
    storage: Storage,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Agent {
    agent_id: Option<String>,
    platform: String,
    max_storage_nodes: u32,
    labels: BTreeMap<String, String>,
    log_format: Format,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            agent_id: None,
            platform: "process".into(),
            max_storage_nodes: 0,
            labels: BTreeMap::new(),
            log_format: Format::Text,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Storage {
    data_path: Option<PathBuf>,
    storage_roots: Vec<PathBuf>,
}

type Variables<'a> = &'a [(&'a str, &'a str)];

fn load(
    file: &str,
    variables: Variables<'_>,
    max: Option<&str>,
) -> Result<Loaded<Settings>, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    fs::write(&path, file).unwrap();
    Loader::new(Environment::of(variables.iter().copied()))
        .file(Some(&path))
        .variable("PLATFORM", "agent.platform")
        .environment_prefix("APP")
        .flag("--max", "agent.max_storage_nodes", max)
        .load()
        // The directory differs in each run.
        .map_err(|error| {
            let strip = |text: &str| text.replace(&format!("{}/", dir.path().display()), "");
            let clean = ConfigError::new(strip(&error.to_string()));
            match error.hint() {
                Some(hint) => clean.with_hint(strip(hint)),
                None => clean,
            }
        })
}

#[test]
fn later_layers_win_key_by_key() {
    let file = "[agent]\nplatform = 'docker'\nmax_storage_nodes = 1\nlabels = { zone = 'a' }\n";
    let loaded = load(file, &[], None).unwrap();
    assert_eq!(loaded.settings.agent.platform, "docker");
    assert_eq!(loaded.settings.agent.max_storage_nodes, 1);
    assert_eq!(loaded.settings.agent.log_format, Format::Text);
    assert!(matches!(
        loaded.sources.of("agent.max_storage_nodes"),
        Source::File { line: 3, .. }
    ));
    assert_eq!(loaded.sources.of("agent.agent_id"), Source::Default);

    let variables = [
        ("PLATFORM", "systemd"),
        ("APP__AGENT__MAX_STORAGE_NODES", "2"),
        ("APP__AGENT__LABELS", "disk=ssd, rack=7"),
        ("APP__STORAGE__STORAGE_ROOTS", "/a,/b"),
        ("APP__AGENT__AGENT_ID", "42"),
        ("APP__AGENT__LOG_FORMAT", "json"),
        ("APPLE__X", "not ours"),
    ];
    let loaded = load(file, &variables, None).unwrap();
    let agent = &loaded.settings.agent;
    assert_eq!(agent.platform, "systemd");
    assert_eq!(agent.max_storage_nodes, 2);
    assert_eq!(agent.agent_id.as_deref(), Some("42"), "a text stays a text");
    assert_eq!(agent.log_format, Format::Json);
    assert_eq!(
        agent.labels,
        [("disk", "ssd"), ("rack", "7"), ("zone", "a")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    );
    assert_eq!(
        loaded.settings.storage.storage_roots,
        [PathBuf::from("/a"), "/b".into()]
    );

    let loaded = load(file, &variables, Some("3")).unwrap();
    assert_eq!(loaded.settings.agent.max_storage_nodes, 3);
    assert_eq!(
        loaded.sources.of("agent.max_storage_nodes").to_string(),
        "the flag `--max`"
    );
}

proptest! {
    #[test]
    fn the_topmost_layer_that_has_a_value_decides_it(
        max in [of(any::<u32>()), of(any::<u32>()), of(any::<u32>())],
        platform in [of("[\\PC&&[^'\"]]{1,20}"), of("[\\PC&&[^'\"]]{1,20}")],
    ) {
        let [file_max, variable_max, flag_max] = max;
        let [file_platform, variable_platform] = platform;
        let mut file = "[agent]\n".to_owned();
        if let Some(max) = file_max {
            file += &format!("max_storage_nodes = {max}\n");
        }
        if let Some(platform) = &file_platform {
            file += &format!("platform = '{platform}'\n");
        }
        let variable_max = variable_max.map(|max| max.to_string());
        let flag_max = flag_max.map(|max| max.to_string());
        let variables: Vec<(&str, &str)> = [
            ("APP__AGENT__MAX_STORAGE_NODES", &variable_max),
            ("PLATFORM", &variable_platform),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect();
        let agent = load(&file, &variables, flag_max.as_deref()).unwrap().settings.agent;
        let max = flag_max.or(variable_max).or(file_max.map(|max| max.to_string()));
        prop_assert_eq!(agent.max_storage_nodes.to_string(), max.unwrap_or("0".into()));
        // A text is taken to the letter, whatever else it could be read as.
        prop_assert_eq!(agent.platform, variable_platform.or(file_platform).unwrap_or("process".into()));
        prop_assert_eq!((agent.agent_id, agent.labels.len(), agent.log_format), (None, 0, Format::Text));
    }

    #[test]
    fn hostile_settings_are_loaded_or_refused_in_words(
        file in "(\\[(agent|storage|agnet)\\]\n)?((labels|max_storage_nodes|x)( = ['\"{}\\[\\]0-9a-z.,=-]{0,20}\n)?)?\\PC{0,10}",
        key in "[A-Z_]{0,20}",
        value in "[^\\x00]{0,40}",
    ) {
        let name = format!("APP__{key}");
        let labels = ("APP__AGENT__LABELS", value.as_str());
        if let Err(error) = load(&file, &[(&name, &value), labels], Some(&value)) {
            let message = error.to_string();
            prop_assert!(!message.is_empty() && !message.ends_with('.'), "{}", message);
            prop_assert!(!message.contains(char::is_control), "{:?}", message);
        }
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let loaded = load("", &[("PLATFORM", ""), ("APP__AGENT__PLATFORM", "")], None).unwrap();
    assert_eq!(loaded.settings, Settings::default());
}

#[test]
fn errors_name_key_place_and_mend() {
    let check = |file: &str, variables: Variables<'_>, max: Option<&str>, expect: &str| {
        let error = load(file, variables, max).unwrap_err();
        assert_eq!(error.report(), expect);
    };
    check(
        "[agent]\n\nplatfrom = 'process'\n",
        &[],
        None,
        "error: unknown key `agent.platfrom` in `a.toml` line 3\nhint: Did you mean `agent.platform`?\n",
    );
    check(
        "[agnet]\nplatform = 'process'\n",
        &[],
        None,
        "error: unknown key `agnet` in `a.toml` line 1\nhint: Did you mean `agent`?\n",
    );
    check(
        "[storage]\nqqq = 1\n",
        &[],
        None,
        "error: unknown key `storage.qqq` in `a.toml` line 2\n\
         hint: The keys of `storage` are `data_path` and `storage_roots`.\n",
    );
    check(
        "",
        &[("APP__AGENT__AGENTID", "x")],
        None,
        "error: unknown key `agent.agentid` in the environment variable `APP__AGENT__AGENTID`\n\
         hint: Did you mean `APP__AGENT__AGENT_ID`?\n",
    );
    check(
        "agent.max_storage_nodes = 'many'",
        &[],
        None,
        "error: `agent.max_storage_nodes` in `a.toml` line 1 is the text \"many\", not a whole number from 0 up\n\
         hint: Set it to a whole number from 0 up.\n",
    );
    check(
        "",
        &[],
        Some("-1"),
        "error: `agent.max_storage_nodes` in the flag `--max` is the number -1, not a whole number from 0 up\n\
         hint: Set it to a whole number from 0 up.\n",
    );
    check(
        "agent.log_format = 'jsno'",
        &[],
        None,
        "error: `agent.log_format` in `a.toml` line 1 is `jsno`, which is none of its values\n\
         hint: Did you mean `json`? The values are `text` and `json`.\n",
    );
    check(
        "[agent]\nplatform = process\n",
        &[],
        None,
        "error: `a.toml` line 2 is not TOML: string values must be quoted, expected literal string\n\
         hint: Texts are written in quotes, and a section as `[section]` on a line of its own.\n",
    );
    // Also where a flag or a variable has a value of its own in that section.
    for (variables, max) in [
        (&[] as Variables<'_>, None),
        (&[], Some("3")),
        (&[("PLATFORM", "process")], None),
    ] {
        check(
            "agent = 3",
            variables,
            max,
            "error: `agent` in `a.toml` line 1 is the number 3, not a section\nhint: Set it to a section.\n",
        );
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error = Loader::new(Environment::default())
        .file(Some("/nowhere/a.toml"))
        .load::<Settings>()
        .unwrap_err();
    assert!(error.to_string().contains("`/nowhere/a.toml`"), "{error}");
}
