//! Cases: what they are and what they need.

use futures::future::BoxFuture;

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
