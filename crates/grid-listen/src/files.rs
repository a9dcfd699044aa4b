//! The open files that this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files, sockets included, this process may have open.
pub fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Raises that number as far as this process may by itself: the usual 1024 is a relic of programs that used `select`.
///
/// For programs that start no others, which would inherit it.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the number of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_raised_to_the_hard_limit() {
        raise_open_files();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(open_files() > 0);
    }
}
