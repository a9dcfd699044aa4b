//! The platforms that tests run on: one entry each.

use grid_testbed::Kind;

use crate::fail::Fail;
use crate::{engines, image, kubernetes, sh, vm};

/// A platform, how to see whether it is here, and how to get it.
#[derive(Debug)]
pub(super) struct Platform {
    /// Its name, as in the agent's settings.
    pub(super) name: &'static str,
    /// The packages whose tests need it. One that several platforms have needs all of them.
    pub(super) packages: &'static [&'static str],
    /// Whether it can be used now; the reason why not.
    detect: fn() -> Result<(), String>,
    /// Brings it up where that can be done unasked; the reason why not.
    raise: Option<fn() -> Result<(), String>>,
    /// Takes away what `raise` brought up.
    lower: Option<fn()>,
    /// Makes on it what its tests need, once it is ready.
    prepare: Option<fn() -> Result<(), Fail>>,
    /// Packages whose programs its tests start.
    pub(super) programs: &'static [&'static str],
    /// Whether the workspace has its tests: those that tests of this task make up have few.
    pub(super) is_in_workspace: fn() -> bool,
}

/// Every platform that this version has.
pub(super) const PLATFORMS: &[Platform] = &[
    Platform {
        name: "process",
        packages: &["grid-platform-process"],
        detect: || {
            if cfg!(target_os = "linux") {
                Ok(())
            } else {
                Err("it runs on Linux only".into())
            }
        },
        raise: None,
        lower: None,
        prepare: None,
        programs: &[],
        is_in_workspace: || true,
    },
    Platform {
        name: "process-vm",
        packages: &["grid-vm"],
        detect: vm::look,
        raise: Some(vm::up),
        lower: Some(vm::down_again),
        prepare: None,
        programs: &["grid-agent", "grid-master", "grid-cli"],
        is_in_workspace: vm::is_here,
    },
    Platform {
        name: "docker",
        packages: &[
            "grid-platform-docker",
            "embed-docker",
            "grid-deploy",
            "grid-hybrid",
        ],
        detect: || engines::look(Kind::Docker).map(drop),
        raise: Some(|| engines::up(Kind::Docker)),
        lower: Some(|| engines::down_again(Kind::Docker)),
        prepare: Some(image::for_tests),
        programs: &["grid-cli"],
        is_in_workspace: || sh::root().join("crates/grid-platform-docker").exists(),
    },
    Platform {
        name: "podman",
        packages: &["grid-podman"],
        detect: || engines::look(Kind::Podman).map(drop),
        raise: Some(|| engines::up(Kind::Podman)),
        lower: Some(|| engines::down_again(Kind::Podman)),
        prepare: None,
        programs: &[],
        is_in_workspace: || sh::root().join("xtask/podman").exists(),
    },
    Platform {
        name: "kubernetes",
        packages: &["grid-platform-k8s", "embed-k8s", "grid-hybrid"],
        detect: || kubernetes::look().map(drop),
        raise: Some(kubernetes::up),
        lower: Some(kubernetes::down_again),
        prepare: None,
        programs: &["grid-cli"],
        is_in_workspace: || sh::root().join("crates/grid-platform-k8s").exists(),
    },
];

/// What was brought up for this run, to be taken away at its end, whatever the end.
#[derive(Debug, Default)]
pub(super) struct Raised(Vec<fn()>);

impl Drop for Raised {
    fn drop(&mut self) {
        for lower in &self.0 {
            lower();
        }
    }
}

impl Platform {
    /// Makes the platform ready; the reason why not.
    pub(super) fn ready(&self, raised: &mut Raised) -> Result<(), String> {
        let Err(why) = (self.detect)() else {
            return Ok(());
        };
        let Some(raise) = self.raise else {
            return Err(why);
        };
        // Also what was brought up in part.
        raised.0.extend(self.lower);
        raise()?;
        (self.detect)()
    }

    /// Makes on it what its tests need.
    ///
    /// # Errors
    /// When that cannot be made: a fault of ours, and not of the place.
    pub(super) fn prepare(&self) -> Result<(), Fail> {
        self.prepare.map_or(Ok(()), |it| it())
    }
}

/// The names of all platforms.
pub(super) fn names() -> Vec<&'static str> {
    PLATFORMS.iter().map(|platform| platform.name).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn platform(
        detect: fn() -> Result<(), String>,
        raise: Option<fn() -> Result<(), String>>,
    ) -> Platform {
        Platform {
            name: "x",
            packages: &[],
            detect,
            raise,
            lower: None,
            prepare: None,
            programs: &[],
            is_in_workspace: || true,
        }
    }

    #[test]
    fn a_platform_is_ready_when_it_is_found_also_after_it_was_raised() {
        let ready = |it: Platform| it.ready(&mut Raised::default());
        assert_eq!(ready(platform(|| Ok(()), None)), Ok(()));
        assert_eq!(
            ready(platform(|| Err("off".into()), None)),
            Err("off".into())
        );
        let down = platform(|| Err("off".into()), Some(|| Err("no engine".into())));
        assert_eq!(ready(down), Err("no engine".into()));
        // Raised, and still not to be seen: what the second look says counts.
        let deaf = platform(|| Err("off".into()), Some(|| Ok(())));
        assert_eq!(ready(deaf), Err("off".into()));
    }
    #[test]
    fn what_was_brought_up_is_taken_away_and_what_was_there_stays() {
        static LOWERED: AtomicUsize = AtomicUsize::new(0);
        let lowered = |detect, raise: fn() -> Result<(), String>| {
            let before = LOWERED.load(Ordering::SeqCst);
            let mut raised = Raised::default();
            let platform = Platform {
                lower: Some(|| {
                    LOWERED.fetch_add(1, Ordering::SeqCst);
                }),
                ..platform(detect, Some(raise))
            };
            let _ = platform.ready(&mut raised);
            assert_eq!(LOWERED.load(Ordering::SeqCst), before, "not before the end");
            drop(raised);
            LOWERED.load(Ordering::SeqCst) - before
        };
        assert_eq!(lowered(|| Ok(()), || Ok(())), 0);
        assert_eq!(lowered(|| Err("off".into()), || Ok(())), 1);
        assert_eq!(lowered(|| Err("off".into()), || Err("half".into())), 1);
    }
}
