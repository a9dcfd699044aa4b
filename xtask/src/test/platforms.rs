//! The platforms that tests run on: one entry each.

/// A platform, how to see whether it is here, and how to get it.
#[derive(Debug)]
pub(super) struct Platform {
    /// Its name, as in the agent's settings.
    pub(super) name: &'static str,
    /// The packages whose tests need it, and nothing else of the workspace does.
    pub(super) packages: &'static [&'static str],
    /// Whether it can be used now; the reason why not.
    detect: fn() -> Result<(), String>,
    /// Brings it up where that can be done unasked; the reason why not.
    raise: Option<fn() -> Result<(), String>>,
}

/// Every platform that this version has.
pub(super) const PLATFORMS: &[Platform] = &[Platform {
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
}];

impl Platform {
    /// Makes the platform ready; the reason why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        let Err(why) = (self.detect)() else {
            return Ok(());
        };
        let Some(raise) = self.raise else {
            return Err(why);
        };
        raise()?;
        (self.detect)()
    }
}

/// The names of all platforms.
pub(super) fn names() -> Vec<&'static str> {
    PLATFORMS.iter().map(|platform| platform.name).collect()
}

#[cfg(test)]
mod tests {
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
        }
    }

    #[test]
    fn a_platform_is_ready_when_it_is_found_also_after_it_was_raised() {
        assert_eq!(platform(|| Ok(()), None).ready(), Ok(()));
        assert_eq!(
            platform(|| Err("off".into()), None).ready(),
            Err("off".into())
        );
        let down = platform(|| Err("off".into()), Some(|| Err("no engine".into())));
        assert_eq!(down.ready(), Err("no engine".into()));
        // Raised, and still not to be seen: what the second look says counts.
        let deaf = platform(|| Err("off".into()), Some(|| Ok(())));
        assert_eq!(deaf.ready(), Err("off".into()));
    }
}
