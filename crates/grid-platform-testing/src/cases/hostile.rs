//! Requests that no platform may take, and those that look as if.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use grid_platform_api::{DataPolicy, ErrorKind, Program, RunAs, SpawnConfig};

use super::cases;
use crate::{Context, Failed, Outcome};

cases! {
    hostile_storage_paths_are_refused [storage_path]
    hostile_programs_are_refused [binary_programs]
    hostile_environments_arguments_and_labels_are_refused []
    hostile_secrets_are_refused [secrets]
    hostile_users_are_refused [user]
    a_path_with_spaces_and_letters_of_the_world_is_used [storage_path]
    memory_of_none_or_beyond_the_machine_is_refused [memory_limit]
    processes_beyond_what_a_kernel_counts_are_refused [pids_limit]
}

/// Has the platform refuse the request as malformed: in one line, with a mend, and with nothing of it left.
async fn malformed(c: &Context, config: SpawnConfig) -> Outcome {
    let id = config.node_id.clone();
    // What of it is small enough to be shown.
    let short = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        config.storage_path,
        config.run_as,
        config.memory_limit_mb,
        config.env.keys().next(),
        config.labels.iter().next(),
        config.secrets.keys().next(),
    );
    let error = match c.platform().spawn_node(config).await {
        Ok(_) => return Err(Failed::new(format!("it was taken: {short}"))),
        Err(error) => error,
    };
    let words = error.to_string();
    assert_eq!(
        error.kind(),
        ErrorKind::InvalidConfig,
        "{error:?} of {short}"
    );
    assert!(!error.is_retryable(), "{error:?}");
    assert!(
        !words.contains(char::is_control) && words.len() < 400,
        "an error is a line that can be read: {words:?}"
    );
    let hint = error.hint().ok_or_else(|| format!("no mend: {error:?}"))?;
    assert!(hint.ends_with('.'), "{hint}");
    assert_eq!(c.platform().list_nodes().await?, [], "{short}");
    assert_eq!(c.platform().list_data().await?, [], "{short}");
    c.nothing_lives(&id).await
}

/// A request that is whole, to be spoiled behind the builder's back.
fn whole(c: &Context) -> Outcome<SpawnConfig> {
    Ok(c.probe("n", &[])?.build()?)
}

/// Paths that no request may name.
fn hostile_paths(good: &Path) -> Vec<PathBuf> {
    let within = |name: &str| good.join(name);
    let bytes = |name: &[u8]| {
        let name = [good.as_os_str().as_encoded_bytes(), b"/", name].concat();
        PathBuf::from(OsString::from_vec(name))
    };
    vec![
        PathBuf::new(),
        PathBuf::from("relative/path"),
        within(".."),
        within("../../etc"),
        within("a/../b"),
        within("line\nfeed"),
        within("escape\u{1b}[2J"),
        within("tab\t"),
        within("next\u{85}line"),
        bytes(b"nul\0"),
        bytes(b"not \xff UTF-8"),
        within(&"x".repeat(256)),
        within(&"x/".repeat(2500)),
    ]
}

async fn hostile_storage_paths_are_refused(c: &Context) -> Outcome {
    let good = c.fixture().storage_path();
    for path in hostile_paths(&good).into_iter().chain(["/".into()]) {
        let mut config = whole(c)?;
        config.storage_path = Some(path);
        malformed(c, config).await?;
    }
    assert!(!c.fixture().has_file(&good).await?, "nothing was made");
    Ok(())
}

async fn hostile_programs_are_refused(c: &Context) -> Outcome {
    for path in hostile_paths(Path::new("/bin")) {
        let mut config = whole(c)?;
        config.program = Program::binary(path, [""; 0]);
        malformed(c, config).await?;
    }
    for name in [".", "..", "./sh", "two\nlines", "nul\0"] {
        let mut config = whole(c)?;
        config.program = Program::binary(name, [""; 0]);
        malformed(c, config).await?;
    }
    Ok(())
}

async fn hostile_environments_arguments_and_labels_are_refused(c: &Context) -> Outcome {
    let huge = "x".repeat(10 << 20);
    for (name, value) in [
        ("", ""),
        ("A=B", ""),
        ("A\nB", ""),
        ("A\0", ""),
        ("1A", ""),
        ("É", ""),
        ("SUTRA_NODE_ID", "other"),
        ("SUTRA_NODE_UID", "0"),
        ("A", "a\0b"),
        ("HUGE", &huge),
    ] {
        let mut config = whole(c)?;
        config.env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        malformed(c, config).await?;
    }
    let mut many = whole(c)?;
    many.env = (0..12_000)
        .map(|n| (format!("V{n}"), "x".repeat(90)))
        .collect();
    malformed(c, many).await?;
    for label in [
        ("", "v"),
        ("key", "a b"),
        ("key", "a\nb"),
        ("clé", "v"),
        ("key", "\u{202e}v"),
        ("sutra.grid", "true"),
        ("key", &"v".repeat(64)),
    ] {
        let mut config = whole(c)?;
        config.labels = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
        malformed(c, config).await?;
    }
    let mut labels = whole(c)?;
    labels.labels = (0..16_000)
        .map(|n| (format!("k{n}"), "v".repeat(63)))
        .collect();
    malformed(c, labels).await?;
    for args in [
        vec!["a\0b".to_owned()],
        vec![huge],
        vec!["x".repeat(10); 100_000],
    ] {
        let mut config = whole(c)?;
        let (Program::Binary { args: own, .. } | Program::Image { args: own, .. }) =
            &mut config.program;
        *own = args;
        malformed(c, config).await?;
    }
    Ok(())
}

async fn hostile_secrets_are_refused(c: &Context) -> Outcome {
    let long = "n".repeat(65);
    for name in ["", ".", "..", "../x", "a/b", "a\nb", ".hidden", "é", &long] {
        let mut config = whole(c)?;
        config.secrets = BTreeMap::from([(name.to_owned(), "v".into())]);
        malformed(c, config).await?;
    }
    let mut huge = whole(c)?;
    huge.secrets = BTreeMap::from([("s".to_owned(), "x".repeat(8 << 20).as_str().into())]);
    malformed(c, huge).await?;
    let mut variable = whole(c)?;
    variable.secrets = BTreeMap::from([("s".to_owned(), "x".repeat(100_000).as_str().into())]);
    variable.secret_env = BTreeMap::from([("S".to_owned(), "s".to_owned())]);
    malformed(c, variable).await
}

async fn hostile_users_are_refused(c: &Context) -> Outcome {
    for (user, group) in [
        ("", None),
        ("a b", None),
        ("a:b", None),
        ("root\n", None),
        ("nobody", Some("")),
        ("nobody", Some("a:b")),
    ] {
        let mut config = whole(c)?;
        config.run_as = Some(RunAs {
            user: user.to_owned(),
            group: group.map(str::to_owned),
        });
        malformed(c, config).await?;
    }
    Ok(())
}

async fn a_path_with_spaces_and_letters_of_the_world_is_used(c: &Context) -> Outcome {
    let path = c
        .fixture()
        .storage_path()
        .join("a b  'c' \"d\" $HOME {port} -rf ü 数 🜚");
    let config = c.probe("n", &["put=key:value", "note={data_path}"])?;
    let node = c.spawn(config.storage_path(&path)).await?;
    assert!(c.fixture().has_file(&path.join("key")).await?);
    let told = c.ask(&node, "argv").await?;
    // Where clients see other paths than programs do, the name within is theirs.
    assert!(
        told.lines().any(|line| line.starts_with("note=/")),
        "the place is one argument: {told}"
    );
    c.platform()
        .remove_node(&node.node_id, DataPolicy::Purge)
        .await?;
    assert!(!c.fixture().has_file(&path.join("key")).await?);
    Ok(())
}

async fn memory_of_none_or_beyond_the_machine_is_refused(c: &Context) -> Outcome {
    for mb in [0, (1 << 30) + 1, u64::MAX] {
        let mut config = whole(c)?;
        config.memory_limit_mb = Some(mb);
        malformed(c, config).await?;
    }
    // A figure that some machine could have: a pebibyte.
    let mut config = whole(c)?;
    config.memory_limit_mb = Some(1 << 30);
    let id = config.node_id.clone();
    let error = match c.platform().spawn_node(config).await {
        Ok(_) => return Err(Failed::new("a limit of a pebibyte was taken")),
        Err(error) => error,
    };
    let kinds = [ErrorKind::InvalidConfig, ErrorKind::SpawnFailed];
    assert!(kinds.contains(&error.kind()), "{error:?}");
    assert!(
        error
            .hint()
            .is_some_and(|it| it.contains("memory_limit_mb")),
        "{error:?}"
    );
    c.platform().remove_node(&id, DataPolicy::Purge).await?;
    assert_eq!(c.platform().list_data().await?, []);
    c.nothing_lives(&id).await
}

async fn processes_beyond_what_a_kernel_counts_are_refused(c: &Context) -> Outcome {
    for pids in [0, (4 << 20) + 1, u32::MAX] {
        let mut config = whole(c)?;
        config.pids_limit = Some(pids);
        malformed(c, config).await?;
    }
    let node = c.spawn(c.probe("n", &[])?.pids_limit(4 << 20)).await?;
    c.platform().stop_node(&node.node_id).await?;
    c.nothing_lives(&node.node_id).await
}
