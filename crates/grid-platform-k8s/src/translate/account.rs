//! Who a node runs as. A cluster has no list of users: they are numbers.

use grid_platform_api::{Error, ErrorKind, Failure, FailureReason, Result, SpawnConfig, printable};

use crate::{
    config::{KubernetesConfig, number, pair},
    error::error,
};

/// The user and group that a node of this request runs as: the request's, where the settings allow it, or the settings' own.
///
/// # Errors
/// `NotAllowed`, for root always; `SpawnFailed` with `UserUnavailable` for a name.
pub(crate) fn account_of(settings: &KubernetesConfig, request: &SpawnConfig) -> Result<(i64, i64)> {
    let own = settings
        .account()
        .ok_or_else(|| error(ErrorKind::InvalidConfig, "`user` is no pair of numbers"))?;
    let Some(run_as) = &request.run_as else {
        return Ok(own);
    };
    let shown = printable(&run_as.user);
    let user = match number(&run_as.user) {
        Some(0) => None,
        Some(user) => Some(user),
        None if run_as.user == "root" => None,
        None => return Err(unavailable(request, &format!("the user `{shown}`"))),
    };
    let Some(user) = user else {
        return Err(not_allowed(
            format!("the user `{shown}` is root, which no node runs as"),
            "Name another user, or leave `run_as` out.".to_owned(),
        ));
    };
    let group = match &run_as.group {
        None => None,
        Some(group) => match number(group) {
            Some(number) => Some(number),
            None => {
                let what = format!("the group `{}`", printable(group));
                return Err(unavailable(request, &what));
            }
        },
    };
    let allowed = settings.users.iter().filter_map(|it| pair(it));
    let its: Vec<_> = std::iter::once(own)
        .chain(allowed)
        .filter(|it| it.0 == user)
        .collect();
    let Some(first) = its.first() else {
        return Err(not_allowed(
            format!("the user `{user}` is not one that nodes may run as"),
            "Add the user to `users` in the agent's settings.".to_owned(),
        ));
    };
    match group {
        None => Ok(*first),
        Some(group) if its.contains(&(user, group)) => Ok((user, group)),
        Some(group) => Err(not_allowed(
            format!("the user `{user}` may not be in the group `{group}`"),
            format!(
                "Add `{user}:{group}` to `users` in the agent's settings, or leave `group` out."
            ),
        )),
    }
}

fn not_allowed(message: String, hint: String) -> Error {
    error(ErrorKind::NotAllowed, message).with_hint(hint)
}

fn unavailable(request: &SpawnConfig, what: &str) -> Error {
    let message = format!("{what} is a name, and a cluster knows users and groups by number alone");
    let failure = Failure::new(FailureReason::UserUnavailable, message);
    Error::spawn_failed(&request.node_id, failure)
        .with_hint("Name the user and the group by their numbers, or leave `run_as` out.")
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Program, RunAs};

    use super::*;

    #[test]
    fn a_request_names_only_users_that_are_allowed() {
        let check = |user: &str, group: Option<&str>, expect: Result<(i64, i64), ErrorKind>| {
            let mut settings = KubernetesConfig::new("ns");
            settings.users = ["1000", "2000:50", "2000:60"].map(str::to_owned).into();
            let request = SpawnConfig::builder("n1", Program::image("i", [""; 0]));
            let request = request.run_as(RunAs {
                user: user.to_owned(),
                group: group.map(str::to_owned),
            });
            let found = account_of(&settings, &request.build().unwrap());
            if let Err(error) = &found {
                assert!(error.hint().is_some(), "{user}");
            }
            let found = found.map_err(|it| it.kind());
            assert_eq!(found, expect, "{user}:{group:?}");
        };
        check("65532", None, Ok((65_532, 65_532)));
        check("65532", Some("65532"), Ok((65_532, 65_532)));
        check("65532", Some("0"), Err(ErrorKind::NotAllowed));
        check("1000", None, Ok((1000, 1000)));
        check("01000", None, Ok((1000, 1000)));
        check("1000", Some("50"), Err(ErrorKind::NotAllowed));
        check("2000", None, Ok((2000, 50)));
        check("2000", Some("60"), Ok((2000, 60)));
        check("2000", Some("2000"), Err(ErrorKind::NotAllowed));
        check("4242", None, Err(ErrorKind::NotAllowed));
        for root in ["0", "00", "root"] {
            check(root, None, Err(ErrorKind::NotAllowed));
            check(root, Some("1000"), Err(ErrorKind::NotAllowed));
        }
        check("redis", None, Err(ErrorKind::SpawnFailed));
        check("+1000", None, Err(ErrorKind::SpawnFailed));
        check("4294967296", None, Err(ErrorKind::SpawnFailed));
        check("1000", Some("redis"), Err(ErrorKind::SpawnFailed));
    }

    #[test]
    fn who_names_nobody_is_the_settings_user() {
        let request = SpawnConfig::builder("n1", Program::image("i", [""; 0]));
        let request = request.build().unwrap();
        let mut settings = KubernetesConfig::new("ns");
        assert_eq!(account_of(&settings, &request).unwrap(), (65_532, 65_532));
        settings.user = "7:8".to_owned();
        assert_eq!(account_of(&settings, &request).unwrap(), (7, 8));
        settings.user = "redis".to_owned();
        let kind = account_of(&settings, &request).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::InvalidConfig);
    }
}
