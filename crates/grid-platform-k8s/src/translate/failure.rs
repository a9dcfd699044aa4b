//! Why a pod does not run, in the contract's words.

use grid_platform_api::{Exit, Failure, FailureReason, Program};

use super::{ClaimView, ContainerState, Ended, PodPhase, PodView, Record, words};

/// How much of the cluster's words is told, in characters.
const WORDS: usize = 300;

/// The cluster's words as one line, without what a terminal would act on.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line: String = words
        .join(" ")
        .chars()
        .filter(|it| !it.is_control())
        .take(WORDS)
        .collect();
    while line.ends_with(['.', ' ']) {
        line.pop();
    }
    line
}

/// How a run ended; `None` when its program was never executed.
pub(crate) fn exit_of(ended: &Ended) -> Option<Exit> {
    if was_refused(ended) {
        return None;
    }
    Some(match (ended.signal, ended.exit_code) {
        _ if was_unseen(ended) => Exit::Unknown,
        (Some(signal), _) => Exit::Signal(signal),
        // As a shell has it: a code of 128 and a signal's number is an end by that signal.
        (None, code @ 129..=192) => Exit::Signal(code - 128),
        (None, code @ 0..=255) => Exit::Code(code),
        _ => Exit::Unknown,
    })
}

/// Whether the runtime could not execute the program.
fn was_refused(ended: &Ended) -> bool {
    matches!(ended.reason.as_str(), "StartError" | "ContainerCannotRun")
}

/// Whether the kubelet made the end up, since the runtime did not know the container any more.
pub(super) fn was_unseen(ended: &Ended) -> bool {
    ended.reason == "ContainerStatusUnknown"
}

/// The failure of a run that ended; `None` when it ended with code 0.
pub(crate) fn bad_end(record: &Record, ended: &Ended) -> Option<Failure> {
    let Some(exit) = exit_of(ended) else {
        return Some(words::start_failure(&ended.message));
    };
    if exit.is_success() {
        return None;
    }
    let (reason, message) = match exit {
        _ if was_unseen(ended) => (
            FailureReason::Interrupted,
            "its host went away, and nobody saw how its program ended".to_owned(),
        ),
        _ if ended.reason == "OOMKilled" => {
            let message = match record.config.memory_limit_mb {
                Some(mb) => format!("it reached its memory limit of {mb} MiB"),
                None => "the host ran out of memory".to_owned(),
            };
            (FailureReason::OutOfMemory, message)
        }
        Exit::Signal(signal) => (
            FailureReason::Signaled,
            format!("its program was ended by signal {signal}"),
        ),
        exit => (
            FailureReason::Exited,
            format!("its program ended with {exit}"),
        ),
    };
    Some(Failure::new(reason, message).with_exit(exit))
}

/// The failure of a program that ended before it was ready, which wrote these last lines.
pub(crate) fn early_end(record: &Record, ended: &Ended, tail: Vec<String>) -> Failure {
    let mut failure = bad_end(record, ended).unwrap_or_else(|| {
        let exit = exit_of(ended).unwrap_or(Exit::Unknown);
        let message = format!("its program ended with {exit} before it was ready");
        Failure::new(FailureReason::Exited, message).with_exit(exit)
    });
    if failure.reason == FailureReason::Exited {
        look_closer(&mut failure, &tail);
    }
    failure.log_tail = tail;
    failure
}

/// What the last lines tell and the exit code does not.
fn look_closer(failure: &mut Failure, tail: &[String]) {
    let last = tail.last().map(String::as_str).unwrap_or_default();
    if let Some((reason, what)) = failed_exec(last) {
        failure.reason = reason;
        failure.message = format!("{what}: {}", one_line(last));
    } else if words::lacks_rights(tail) {
        failure.message +=
            "; nodes are not root and have no capabilities, which its image may need";
    }
}

/// Whether a line of a log is the runtime's, which could not execute the program.
pub(crate) fn is_failed_exec(line: &str) -> bool {
    failed_exec(line).is_some()
}

/// Why the runtime could not execute the program, by its line in the log: when it does that, the container runs already.
fn failed_exec(line: &str) -> Option<(FailureReason, &'static str)> {
    // crun begins the reason with a capital.
    let line = line.to_ascii_lowercase();
    if !line.starts_with("exec ") && !line.contains("exec user process caused") {
        return None;
    }
    let known = [
        (
            "exec format error",
            FailureReason::BadProgramFormat,
            "its program is none for its host's machine",
        ),
        (
            "no such file or directory",
            FailureReason::BadProgramFormat,
            "the interpreter that its program names does not exist",
        ),
        (
            "permission denied",
            FailureReason::NotExecutable,
            "its program may not be executed",
        ),
    ];
    let found = known.into_iter().find(|it| line.contains(it.0));
    found.map(|(_, reason, what)| (reason, what))
}

/// Why a pod does not run yet, and whether waiting longer can help without a change by somebody (`false` for an image
/// that does not exist, a name that is none, a container that cannot be made).
pub(crate) fn why_pending(
    record: &Record,
    claim: Option<&ClaimView>,
    pod: &PodView,
) -> Option<(Failure, bool)> {
    match pod.phase {
        PodPhase::Failed => return Some((lost_place(record, pod), false)),
        PodPhase::Succeeded => return None,
        PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => {}
    }
    match &pod.container.state {
        ContainerState::Running { .. } => return None,
        ContainerState::Ended(ended) => return after(record, Some(ended)),
        ContainerState::Waiting { reason, message } => match reason.as_str() {
            "CrashLoopBackOff" => return after(record, pod.container.last.as_ref()),
            "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
                return Some(words::image_failure(image(record), message));
            }
            "ErrImageNeverPull" => {
                let message = format!("the image `{}` is not on the pod's host", image(record));
                return Some((Failure::new(FailureReason::ImageNotFound, message), false));
            }
            "InvalidImageName" => {
                let message = format!("`{}` is not an image reference", image(record));
                return Some((Failure::new(FailureReason::PlatformRefused, message), false));
            }
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PreCreateHookError"
            | "PreStartHookError"
            | "PostStartHookError" => return Some(words::making_failure(message)),
            _ => {}
        },
        ContainerState::Unknown => {}
    }
    if let Some(why) = &pod.unscheduled {
        return Some((words::unscheduled(why), true));
    }
    let claim = claim.filter(|it| !it.is_bound)?;
    let message = format!("its claim `{}` is not bound", claim.node_id.native_name());
    Some((Failure::new(FailureReason::VolumePending, message), true))
}

/// Why a program that ended is not running yet, and whether its next start can be another one.
fn after(record: &Record, ended: Option<&Ended>) -> Option<(Failure, bool)> {
    let failure = bad_end(record, ended?)?;
    let can_run = !matches!(
        failure.reason,
        FailureReason::ProgramNotFound
            | FailureReason::NotExecutable
            | FailureReason::BadProgramFormat
            | FailureReason::UserUnavailable
    );
    Some((failure, can_run))
}

/// The image of a record's request.
fn image(record: &Record) -> &str {
    match &record.config.program {
        Program::Image { image, .. } => image,
        Program::Binary { .. } => "",
    }
}

/// The failure of a pod whose phase is `Failed`.
pub(super) fn lost_place(record: &Record, pod: &PodView) -> Failure {
    let ended = match &pod.container.state {
        ContainerState::Ended(ended) => Some(ended),
        _ => None,
    };
    let reason = pod.reason.as_deref().unwrap_or_default();
    let told = one_line(pod.message.as_deref().unwrap_or_default());
    let with = |what: &str| match told.as_str() {
        "" => what.to_owned(),
        told => format!("{what}: {told}"),
    };
    let of = |reason, what: &str| Failure::new(reason, with(what));
    let failure = match reason {
        "Evicted" | "Preempting" | "Preempted" => {
            of(FailureReason::Evicted, "the cluster took its place away")
        }
        "Terminated" | "NodeShutdown" | "Shutdown" => {
            of(FailureReason::Evicted, "its host was shut down")
        }
        "NodeLost" => of(FailureReason::HostLost, "its host cannot be reached"),
        "NodeAffinity" | "NodeSelectorMismatching" | "NodeName" | "NodePorts" => {
            of(FailureReason::Unschedulable, "its host does not take it")
        }
        full if full.starts_with("OutOf") => {
            of(FailureReason::Unschedulable, "its host has no room for it")
        }
        other => match ended.and_then(|it| bad_end(record, it)) {
            Some(failure) => return failure,
            None if other.is_empty() => of(FailureReason::PlatformRefused, "its pod failed"),
            None => of(
                FailureReason::PlatformRefused,
                &format!("its host refused it ({})", one_line(other)),
            ),
        },
    };
    match ended.and_then(exit_of) {
        Some(exit) => failure.with_exit(exit),
        None => failure,
    }
}

/// What the cluster's event about a pod says of why it does not run, and whether waiting longer can help; `None` for one that says
/// nothing of that.
pub(crate) fn why_event(record: &Record, reason: &str, message: &str) -> Option<(Failure, bool)> {
    let told = |reason, what: &str| {
        let message = format!("{what}: {}", one_line(message));
        Some((Failure::new(reason, message), true))
    };
    match reason {
        "FailedScheduling" => Some((words::unscheduled(message), true)),
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" | "ProvisioningFailed" => {
            told(FailureReason::VolumePending, "its volume is not ready")
        }
        "FailedCreatePodSandBox" | "FailedCreatePodContainer" | "NetworkNotReady" => told(
            FailureReason::PlatformRefused,
            "its host could not make the pod",
        ),
        "Failed" if message.contains("pull image") => {
            Some(words::image_failure(image(record), message))
        }
        "Failed" => words::known_start_failure(message).map(|it| (it, false)),
        _ => None,
    }
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
