//! What is there, what is missing, and the mend.

use grid_platform_api::{Check, CheckStatus, PlatformInfo};

use crate::{
    cgroup::HINT,
    config::{Allow, CgroupMode},
    error::PLATFORM,
    platform::Inner,
    sys::{files, users},
};

/// [`Platform::probe`](grid_platform_api::Platform::probe).
pub(crate) fn look(inner: &Inner) -> PlatformInfo {
    let system = rustix::system::uname();
    let mut checks = vec![
        state(inner),
        programs(inner),
        roots(inner),
        limits(inner),
        user(),
    ];
    checks.extend(inner.findings.iter().map(|it| {
        let mut check = check(&it.name, CheckStatus::Degraded, it.detail.clone());
        check.hint = Some(it.hint.clone());
        check
    }));
    PlatformInfo {
        platform: PLATFORM.to_owned(),
        version: Some(format!(
            "{} {}",
            system.sysname().to_string_lossy(),
            system.release().to_string_lossy()
        )),
        owner: inner.install.owner.clone(),
        capabilities: inner.capabilities(),
        checks,
    }
}

fn check(name: &str, status: CheckStatus, detail: String) -> Check {
    Check {
        name: name.to_owned(),
        status,
        detail,
        hint: None,
    }
}

fn with_hint(mut check: Check, hint: &str) -> Check {
    check.hint = Some(hint.to_owned());
    check
}

fn state(inner: &Inner) -> Check {
    let path = inner.config.state_dir.display();
    match files::sync(&inner.nodes_dir) {
        Ok(()) => check("state", CheckStatus::Ok, format!("`{path}` can be written")),
        Err(e) => with_hint(
            check(
                "state",
                CheckStatus::Failed,
                format!("`{path}` cannot be written: {e}"),
            ),
            "Give the agent a `state_dir` on a disk that works.",
        ),
    }
}

fn programs(inner: &Inner) -> Check {
    match &inner.config.programs {
        Allow::Any => check(
            "programs",
            CheckStatus::Ok,
            "any program may be a node".to_owned(),
        ),
        Allow::Only(list) if list.is_empty() => with_hint(
            check(
                "programs",
                CheckStatus::Failed,
                "no program may be a node".to_owned(),
            ),
            "Name them in `programs` in the agent's settings.",
        ),
        Allow::Only(list) => {
            let names: Vec<String> = list
                .iter()
                .map(|it| format!("`{}`", it.display()))
                .collect();
            check(
                "programs",
                CheckStatus::Ok,
                format!("{} may be nodes", names.join(", ")),
            )
        }
    }
}

fn roots(inner: &Inner) -> Check {
    for root in inner.config.roots() {
        if let Err(e) = files::open_dir(root) {
            return with_hint(
                check(
                    "storage",
                    CheckStatus::Degraded,
                    format!(
                        "the storage root `{}` cannot be opened: {e}",
                        root.display()
                    ),
                ),
                "Make the directory, or take it out of `storage_roots`.",
            );
        }
    }
    let roots: Vec<String> = inner
        .config
        .roots()
        .iter()
        .map(|it| format!("`{}`", it.display()))
        .collect();
    check(
        "storage",
        CheckStatus::Ok,
        format!("data may be beneath {}", roots.join(", ")),
    )
}

fn limits(inner: &Inner) -> Check {
    if inner.config.cgroups == CgroupMode::Off {
        return check(
            "limits",
            CheckStatus::Degraded,
            "cgroups are off by the settings".to_owned(),
        );
    }
    let cgroups = &inner.cgroups;
    let missing: Vec<&str> = [
        ("memory", cgroups.memory()),
        ("cpu", cgroups.cpu()),
        ("pids", cgroups.pids()),
    ]
    .iter()
    .filter(|it| !it.1)
    .map(|it| it.0)
    .collect();
    if missing.is_empty() {
        return check(
            "limits",
            CheckStatus::Ok,
            "memory, cpu and pids can be limited".to_owned(),
        );
    }
    with_hint(
        check(
            "limits",
            CheckStatus::Degraded,
            format!("no cgroups can be made for {}", missing.join(", ")),
        ),
        &format!("{HINT}."),
    )
}

fn user() -> Check {
    if users::own_uid() == 0 {
        return check(
            "users",
            CheckStatus::Ok,
            "nodes can run as other users".to_owned(),
        );
    }
    with_hint(
        check(
            "users",
            CheckStatus::Degraded,
            "nodes run as the agent's own user only".to_owned(),
        ),
        "Run the agent as root where nodes need users of their own.",
    )
}
