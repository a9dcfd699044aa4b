//! Users and groups of the host.

use std::{ffi::CString, io};

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use grid_platform_api::RunAs;

/// Who a program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// All of its groups.
    pub groups: Vec<u32>,
    /// The host's own list has the user in that group.
    pub is_member: bool,
}

/// The user of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The number that stands for "leave it as it is" in setuid(2) and chown(2), and is nobody's.
const NOBODYS: u32 = u32::MAX;

/// Finds a user and group by name or number. `None`: there is no such user or group.
pub fn find(run_as: &RunAs) -> io::Result<Option<Account>> {
    let by_name = User::from_name(&run_as.user)?;
    let number = |text: &str| text.parse().ok().filter(|it| *it != NOBODYS);
    let user = match (by_name, number(&run_as.user)) {
        (Some(user), _) => Some(user),
        (None, Some(uid)) => User::from_uid(Uid::from_raw(uid))?,
        (None, None) => return Ok(None),
    };
    let group = match &run_as.group {
        None => None,
        Some(name) => match (Group::from_name(name)?, number(name)) {
            (Some(group), _) => Some(group.gid.as_raw()),
            (None, Some(gid)) => Some(gid),
            (None, None) => return Ok(None),
        },
    };
    let account = match user {
        Some(user) => {
            let gid = group.unwrap_or_else(|| user.gid.as_raw());
            let name = CString::new(user.name).map_err(io::Error::other)?;
            let own = getgrouplist(&name, user.gid)?;
            let groups = getgrouplist(&name, Gid::from_raw(gid))?;
            Account {
                uid: user.uid.as_raw(),
                gid,
                is_member: own.contains(&Gid::from_raw(gid)),
                groups: groups.into_iter().map(Gid::as_raw).collect(),
            }
        }
        // A number without a name is a user all the same; its group is the one of its number unless it is told.
        None => {
            let Ok(uid) = run_as.user.parse() else {
                return Ok(None);
            };
            let gid = group.unwrap_or(uid);
            Account {
                uid,
                gid,
                groups: vec![gid],
                is_member: gid == uid,
            }
        }
    };
    Ok(Some(account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number() {
        let check = |user: &str, group: Option<&str>, expect: Option<(u32, u32, bool)>| {
            let run_as = RunAs {
                user: user.into(),
                group: group.map(str::to_owned),
            };
            let found = find(&run_as)
                .unwrap()
                .map(|it| (it.uid, it.gid, it.is_member));
            assert_eq!(found, expect, "{user} {group:?}");
        };
        check("root", None, Some((0, 0, true)));
        check("0", None, Some((0, 0, true)));
        check("root", Some("4242"), Some((0, 4242, false)));
        check("4242424", None, Some((4_242_424, 4_242_424, true)));
        check("4242424", Some("0"), Some((4_242_424, 0, false)));
        check("no-such-user", None, None);
        check("root", Some("no-such-group"), None);
        // What changes nobody is nobody, not everybody.
        check("4294967295", None, None);
        check("root", Some("4294967295"), None);
        check("-1", None, None);
        check("4294967296", None, None);
    }
}
