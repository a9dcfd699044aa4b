//! Who a node runs as: the request's user, or else the image's own, or else the settings'; root only where a setting says so.

use std::{collections::HashMap, sync::Mutex};

use bollard::{models::HostConfig, query_parameters::DownloadFromContainerOptionsBuilder};
use futures::StreamExt;
use grid_platform_api::{
    Error, ErrorKind, Failure, FailureReason, NodeId, OwnerId, Result, SpawnConfig,
};
use grid_platform_host::{error::Context, users};

use crate::{
    config::DockerConfig,
    engine::{CALL, Engine},
    error::error,
    helper,
    images::Image,
    tar::Owner,
    translate::Root,
};

/// The largest list of users that is looked into.
const MAX: usize = 1024 * 1024;

/// Who a node runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// By numbers, which the engine is given too: a name it might read otherwise than it was read here. Its data belongs to it.
    pub(crate) owner: Owner,
    /// What became of an image that begins as root.
    pub(crate) root: Root,
}

/// Who it is, as far as that is known without a look into the image.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Known(Account),
    /// The image's own user, by its name.
    Named(String),
}

/// The users that images name, by image and name.
#[derive(Default)]
pub(crate) struct Accounts(Mutex<HashMap<(String, String), Owner>>);

impl Accounts {
    /// Who a node of this request and image runs as.
    ///
    /// # Errors
    /// `NotAllowed`; `SpawnFailed` with `UserUnavailable`; the engine's.
    pub(crate) async fn of(
        &self,
        engine: &Engine,
        agent: &OwnerId,
        settings: &DockerConfig,
        config: &SpawnConfig,
        image: &Image,
    ) -> Result<Account> {
        let name = match choose(settings, config, image)? {
            Choice::Known(account) => return Ok(account),
            Choice::Named(name) => name,
        };
        let key = (image.id.clone(), name.clone());
        let known = self.known().get(&key).copied();
        let owner = match known {
            Some(owner) => owner,
            None => {
                let owner = look_into(engine, agent, image, &name)
                    .await?
                    .ok_or_else(|| {
                        unavailable(
                            &config.node_id,
                            format!(
                                "the image names the user `{}`, which it does not have",
                                name.escape_debug()
                            ),
                        )
                    })?;
                self.known().insert(key, owner);
                owner
            }
        };
        of_image(settings, owner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Owner>> {
        // The map is whole at every point where a panic could happen.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn unavailable(id: &NodeId, message: String) -> Error {
    Error::spawn_failed(id, Failure::new(FailureReason::UserUnavailable, message))
}

fn choose(settings: &DockerConfig, config: &SpawnConfig, image: &Image) -> Result<Choice> {
    if config.run_as.is_some() {
        return requested(settings, config).map(Choice::Known);
    }
    match numbers(&image.user) {
        Some(owner) => of_image(settings, owner).map(Choice::Known),
        None => Ok(Choice::Named(image.user.clone())),
    }
}

/// The user that an image names, where that takes no look into it. A number without a group is its own group.
fn numbers(user: &str) -> Option<Owner> {
    // An image needs no list of users to begin as root.
    let number = |it: &str| match it {
        "" | "root" => Some(0),
        other => other.parse().ok(),
    };
    let (user, group) = user.split_once(':').unwrap_or((user, user));
    Some(Owner {
        uid: number(user)?,
        gid: number(group)?,
    })
}

/// Who a node runs as whose image begins as that user: root, under whatever name, only where a setting says so.
fn of_image(settings: &DockerConfig, owner: Owner) -> Result<Account> {
    let root = match (owner.uid, settings.security.run_as_image_user) {
        (0, true) => Root::Granted,
        (0, false) => Root::Refused,
        _ => Root::NotAsked,
    };
    if root != Root::Refused {
        return Ok(Account { owner, root });
    }
    let (uid, gid) = settings
        .account()
        .ok_or_else(|| error(ErrorKind::InvalidConfig, "`user` is no pair of numbers"))?;
    let owner = Owner { uid, gid };
    Ok(Account { owner, root })
}

/// The user that a request names, by the list of the agent's host.
fn requested(settings: &DockerConfig, config: &SpawnConfig) -> Result<Account> {
    let Some(run_as) = &config.run_as else {
        return Err(error(ErrorKind::Internal, "the request names no user"));
    };
    let found = users::find(run_as).cannot(format!("look up the user `{}`", run_as.user))?;
    let Some(account) = found else {
        let message = match &run_as.group {
            None => format!("the user `{}` does not exist", run_as.user),
            Some(group) => format!(
                "the user `{}` or the group `{group}` does not exist",
                run_as.user
            ),
        };
        return Err(unavailable(&config.node_id, message));
    };
    let own = settings.account() == Some((account.uid, account.gid));
    let named = |it: &String| *it == run_as.user || *it == account.uid.to_string();
    if !own && !settings.users.iter().any(named) {
        return Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the user `{}` is not one that nodes may run as",
                run_as.user
            ),
        )
        .with_hint("Add the user to `users` in the agent's settings."));
    }
    // Or an allowed user would be a way to any group of the host, that of its disks too.
    if !own && !account.is_member {
        return Err(error(
            ErrorKind::NotAllowed,
            format!(
                "the user `{}` is not in the group `{}`",
                run_as.user,
                run_as.group.as_deref().unwrap_or_default()
            ),
        )
        .with_hint("Add the user to the group on the host, or leave `group` out."));
    }
    Ok(Account {
        owner: Owner {
            uid: account.uid,
            gid: account.gid,
        },
        root: Root::NotAsked,
    })
}

/// Finds a user by the lists in the image, through a container of it that never runs. It is taken away also when the caller is
/// dropped.
async fn look_into(
    engine: &Engine,
    owner: &OwnerId,
    image: &Image,
    user: &str,
) -> Result<Option<Owner>> {
    let (engine, owner) = (engine.clone(), owner.clone());
    let (image, user) = (image.id.clone(), user.to_owned());
    let look = async move {
        let made = helper::make(&engine, &owner, None, &image, HostConfig::default()).await;
        let made = made.map_err(|fault| fault.into_error("look into an image"))?;
        let passwd = file(&engine, &made, "/etc/passwd").await;
        let group = file(&engine, &made, "/etc/group").await;
        helper::remove(&engine, &made).await?;
        Ok(find(&user, &passwd?, &group?))
    };
    tokio::spawn(look).await.unwrap_or_else(|e| {
        Err(error(ErrorKind::Internal, "a look into an image was cut short").with_source(e))
    })
}

/// A small text file of a container; empty where it is not there.
async fn file(engine: &Engine, container: &str, path: &str) -> Result<String> {
    let options = DownloadFromContainerOptionsBuilder::new()
        .path(path)
        .build();
    let mut stream = engine
        .docker
        .download_from_container(container, Some(options));
    let mut bytes = Vec::new();
    loop {
        let next = async { stream.next().await.transpose() };
        match engine.ask(CALL, next).await {
            Ok(Some(piece)) if bytes.len() < MAX => bytes.extend_from_slice(&piece),
            Ok(_) => break,
            Err(fault) if fault.status() == Some(404) => return Ok(String::new()),
            Err(fault) => return Err(fault.into_error("read a file of an image")),
        }
    }
    Ok(first_file(&bytes).unwrap_or_default())
}

/// The first file in an archive, if it is a plain one.
fn first_file(archive: &[u8]) -> Option<String> {
    let size = archive.get(124..135)?;
    let size = std::str::from_utf8(size).ok()?.trim_matches(['\0', ' ']);
    let size = usize::from_str_radix(size, 8).ok()?;
    let plain = matches!(archive.get(156)?, b'0' | 0);
    let bytes = archive.get(512..512_usize.checked_add(size)?)?;
    plain.then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Finds `USER` or `USER:GROUP`, by names or numbers (passwd(5), group(5)).
fn find(user: &str, passwd: &str, groups: &str) -> Option<Owner> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let field = |line: &str, at: usize| line.split(':').nth(at).and_then(|it| it.parse().ok());
    let named = |list: &str, name: &str| -> Option<String> {
        let mut lines = list.lines();
        lines
            .find(|it| it.split(':').next() == Some(name))
            .map(str::to_owned)
    };
    let entry = named(passwd, user);
    let uid: u32 = match &entry {
        Some(line) => field(line, 2)?,
        None => user.parse().ok()?,
    };
    let gid = match group {
        Some(group) => match named(groups, group) {
            Some(line) => field(&line, 2)?,
            None => group.parse().ok()?,
        },
        None => entry.and_then(|line| field(&line, 3)).unwrap_or(0),
    };
    Some(Owner { uid, gid })
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Program, RunAs};

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nredis:x:999:1000::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nredis:x:1000:\ndata:x:50:redis\n";

    #[test]
    fn users_of_an_image_are_found() {
        let check = |user: &str, expect: Option<(u32, u32)>| {
            let found = find(user, PASSWD, GROUP).map(|it| (it.uid, it.gid));
            assert_eq!(found, expect, "{user}");
        };
        check("redis", Some((999, 1000)));
        check("redis:data", Some((999, 50)));
        check("redis:7", Some((999, 7)));
        check("77:data", Some((77, 50)));
        check("77", Some((77, 0)));
        check("nobody", None);
        check("redis:none", None);
    }

    fn choice(
        image_user: &str,
        run_as: Option<&str>,
        change: impl FnOnce(&mut DockerConfig),
    ) -> Result<Choice> {
        let mut settings = DockerConfig::new("/s", "/d");
        change(&mut settings);
        let mut config = SpawnConfig::builder("n1", Program::image("i", [""; 0]))
            .build()
            .unwrap();
        config.run_as = run_as.map(|user| RunAs {
            user: user.to_owned(),
            group: None,
        });
        let image = Image {
            user: image_user.to_owned(),
            ..Image::default()
        };
        choose(&settings, &config, &image)
    }

    #[test]
    fn root_is_for_who_is_told_so() {
        let check = |image_user: &str, root: bool, expect: (u32, u32, Root)| {
            let found = choice(image_user, None, |it| it.security.run_as_image_user = root);
            let Ok(Choice::Known(account)) = found else {
                panic!("{image_user} is known");
            };
            let owner = account.owner;
            let found = (owner.uid, owner.gid, account.root);
            assert_eq!(found, expect, "{image_user}");
        };
        for root in ["", "0", "00", "+0", "root", "0:0", "000:0", "root:root"] {
            check(root, false, (65_532, 65_532, Root::Refused));
            check(root, true, (0, 0, Root::Granted));
        }
        check("0:5", false, (65_532, 65_532, Root::Refused));
        check("0:5", true, (0, 5, Root::Granted));
        check("1000", false, (1000, 1000, Root::NotAsked));
        check("1000:50", false, (1000, 50, Root::NotAsked));
        check("1000:0", false, (1000, 0, Root::NotAsked));
        for name in ["redis", "root:disk", "1000:data"] {
            let named = choice(name, None, |_| {}).unwrap();
            assert_eq!(named, Choice::Named(name.into()));
        }
    }

    #[test]
    fn root_is_root_under_any_name() {
        let passwd = "toor:x:0:0::/:/bin/sh\n";
        let mut settings = DockerConfig::new("/s", "/d");
        for user in ["toor", "0:data", "toor:data"] {
            let found = find(user, passwd, GROUP).unwrap();
            let account = of_image(&settings, found).unwrap();
            assert_eq!(account.root, Root::Refused, "{user}");
            assert_eq!((account.owner.uid, account.owner.gid), (65_532, 65_532));
        }
        settings.security.run_as_image_user = true;
        let account = of_image(&settings, Owner { uid: 0, gid: 50 }).unwrap();
        assert_eq!(account.root, Root::Granted);
        assert_eq!((account.owner.uid, account.owner.gid), (0, 50));
    }

    #[test]
    fn a_request_names_only_users_that_are_allowed() {
        let kind = |user: &str, users: &[&str]| {
            let found = choice("", Some(user), |it| {
                it.users = users.iter().map(|it| (*it).to_owned()).collect();
            });
            found.err().map(|it| it.kind())
        };
        assert_eq!(kind("4242", &["4242"]), None);
        assert_eq!(kind("65532", &[]), None);
        assert_eq!(kind("4242", &[]), Some(ErrorKind::NotAllowed));
        assert_eq!(kind("root", &["4242"]), Some(ErrorKind::NotAllowed));
        assert_eq!(kind("no-such-user", &[]), Some(ErrorKind::SpawnFailed));
    }
}
