//! The words of clusters, kubelets and runtimes that tell more than their reasons do.

use grid_platform_api::{Failure, FailureReason};

use super::one_line;

fn refused(reason: FailureReason, words: &str) -> Failure {
    Failure::new(
        reason,
        format!("the cluster could not start it: {}", one_line(words)),
    )
}

/// The failure of a start that the runtime refused in these words.
pub(super) fn start_failure(words: &str) -> Failure {
    known_start_failure(words).unwrap_or_else(|| refused(FailureReason::PlatformRefused, words))
}

/// The failure of a start in words that tell what is wrong with the node; `None` for any others.
pub(super) fn known_start_failure(words: &str) -> Option<Failure> {
    let has = |part: &str| words.contains(part);
    let executes =
        has("exec") || has("starting container process") || has("start container process");
    let reason = if has("unable to find user")
        || has("unable to find group")
        || has("no matching entries in")
        || has("runAsNonRoot")
    {
        FailureReason::UserUnavailable
    } else if has("error mounting") || has("failed to mount") {
        FailureReason::DataUnavailable
    } else if has("exec format error") {
        FailureReason::BadProgramFormat
    } else if has("executable file not found")
        || has("no command specified")
        || executes && has("no such file or directory")
    {
        FailureReason::ProgramNotFound
    } else if executes && (has("permission denied") || has("is a directory")) {
        FailureReason::NotExecutable
    } else if has("cgroup") || has("rlimit") || has("memory limit") {
        FailureReason::LimitUnavailable
    } else {
        return None;
    };
    Some(refused(reason, words))
}

/// The failure of a container that could not be made, and whether its host may yet make it.
pub(super) fn making_failure(words: &str) -> (Failure, bool) {
    if let Some(failure) = known_start_failure(words) {
        return (failure, false);
    }
    // Of a host that is slow or busy, and of objects that its kubelet has not heard of yet.
    let passing = [
        "not found",
        "deadline exceeded",
        "timed out",
        "is reserved for",
        "failed to sync",
        "connection refused",
        "transport",
        "navailable",
    ];
    let passes = passing.iter().any(|it| words.contains(it));
    (refused(FailureReason::PlatformRefused, words), passes)
}

/// The failure of an image that could not be pulled, and whether it may yet be.
pub(super) fn image_failure(image: &str, words: &str) -> (Failure, bool) {
    let lower = words.to_ascii_lowercase();
    let has = |part: &&str| lower.contains(*part);
    let unreachable = [
        "dial tcp",
        "no such host",
        "lookup ",
        "timeout",
        "connection refused",
    ];
    let missing = [
        "not found",
        "manifest unknown",
        "name unknown",
        "repository does not exist",
        "does not exist or no pull access",
    ];
    let is_missing = !unreachable.iter().any(has) && missing.iter().any(has);
    let (reason, what) = match is_missing {
        true => (FailureReason::ImageNotFound, "does not exist"),
        false => (FailureReason::ImagePullFailed, "could not be pulled"),
    };
    let message = match one_line(words) {
        told if told.is_empty() => format!("the image `{image}` {what}"),
        told => format!("the image `{image}` {what}: {told}"),
    };
    (Failure::new(reason, message), !is_missing)
}

/// The failure of a pod that the scheduler has no host for, in its words.
pub(super) fn unscheduled(words: &str) -> Failure {
    let volume = [
        "unbound immediate PersistentVolumeClaims",
        "didn't find available persistent volumes",
    ];
    let claim = words.contains("persistentvolumeclaim \"")
        && (words.contains("not found") || words.contains("is being deleted"));
    let (reason, what) = match claim || volume.iter().any(|it| words.contains(it)) {
        true => (FailureReason::VolumePending, "its volume is not ready"),
        false => (FailureReason::Unschedulable, "no host takes it"),
    };
    let message = match one_line(words) {
        told if told.is_empty() => what.to_owned(),
        told => format!("{what}: {told}"),
    };
    Failure::new(reason, message)
}

/// The reason of a refusal of an object, where the API server's words tell one.
pub(crate) fn refusal(words: &str) -> Option<FailureReason> {
    let has = |part: &str| words.contains(part);
    let ranges = [
        "maximum memory usage per",
        "maximum cpu usage per",
        "minimum memory usage per",
        "minimum cpu usage per",
    ];
    if has("exceeded quota") || has("forbidden: exceeded") {
        Some(FailureReason::QuotaExceeded)
    } else if is_limit_wanted(words) || ranges.iter().any(|it| has(it)) {
        Some(FailureReason::LimitUnavailable)
    } else {
        None
    }
}

/// Whether it was refused since a quota counts something of which the request has no limit.
pub(crate) fn is_limit_wanted(words: &str) -> bool {
    words.contains("failed quota: ") && words.contains("must specify")
}

/// Whether the last lines of a log say that a right is missing.
pub(super) fn lacks_rights(tail: &[String]) -> bool {
    let lacks = |line: &String| {
        let line = line.to_ascii_lowercase();
        [
            "operation not permitted",
            "permission denied",
            "must be run as root",
            "eperm",
        ]
        .iter()
        .any(|it| line.contains(it))
    };
    tail.iter().any(lacks)
}
