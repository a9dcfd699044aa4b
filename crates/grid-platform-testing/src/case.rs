//! Cases: what they are and what they need.

use futures::future::BoxFuture;
use grid_platform_api::RestartMode;

use crate::{Context, Outcome, Survey};

/// One promise of the contract, and how it is checked.
pub struct Case {
    /// Its name, behind the harness's: `process::spawn_is_idempotent`.
    pub name: &'static str,
    /// What a platform must have for the promise to bind it.
    pub needs: &'static [Need],
    /// Checks it in a fresh fixture.
    pub run: for<'a> fn(&'a Context) -> BoxFuture<'a, Outcome>,
}

/// Something that a case needs.
#[derive(Clone, Copy)]
pub struct Need {
    /// What it is called in the list of tests.
    pub name: &'static str,
    /// Whether a platform has it.
    pub met: fn(&Survey) -> bool,
}

impl Case {
    /// What the case needs and the platform does not have.
    pub fn missing(&self, survey: &Survey) -> Vec<&'static str> {
        let missing = self.needs.iter().filter(|need| !(need.met)(survey));
        missing.map(|need| need.name).collect()
    }
}

/// All cases, by subject.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    crate::cases::ALL.iter().copied().flatten()
}

/// What cases need, by the names of capabilities and of the survey's fields.
pub(crate) mod need {
    use super::{Need, RestartMode};

    macro_rules! capabilities {
        ($($name:ident)*) => {
            $(#[allow(non_upper_case_globals, reason = "needs are called as capabilities are")]
            pub(crate) const $name: Need = Need {
                name: stringify!($name),
                met: |survey| survey.capabilities.$name,
            };)*
        };
    }

    macro_rules! needs {
        ($($name:ident $text:literal |$survey:ident| $met:expr;)*) => {
            $(#[allow(non_upper_case_globals, reason = "needs are called as capabilities are")]
            pub(crate) const $name: Need = Need { name: $text, met: |$survey| $met };)*
        };
    }

    capabilities! {
        binary_programs image_programs restart_tuning trial memory_limit open_files_limit pids_limit cpu_limit
        storage_path user secrets secret_env health_checks port_allocation exclusive_ports stop_signal logs_after_stop
        logs_since log_streams usage nodes_outlive_adapter
    }

    needs! {
        never "restart mode never" |s| s.capabilities.restart_modes.contains(&RestartMode::Never);
        on_failure "restart mode on-failure" |s| s.capabilities.restart_modes.contains(&RestartMode::OnFailure);
        always "restart mode always" |s| s.capabilities.restart_modes.contains(&RestartMode::Always);
        log_budget "a small log budget" |s| s.log_budget.is_some();
        other_user "a user to change to" |s| s.other_user.is_some();
    }
}
