//! Why a container does not run, in the contract's words.

use grid_platform_api::{Exit, Failure, FailureReason};

use super::{Observed, Phase, Record, Root};

/// How much of the engine's words is told, in characters.
const WORDS: usize = 300;

/// The engine's or an image's words as one line, without what a terminal would act on.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut line: String = words
        .join(" ")
        .chars()
        .filter(|it| !it.is_control())
        .take(WORDS)
        .collect();
    while line.ends_with('.') {
        line.pop();
    }
    line
}

/// How a program ended that the engine gives this code of.
pub(crate) fn exit(code: i64) -> Exit {
    match i32::try_from(code) {
        // As a shell has it: a code of 128 and a signal's number is an end by that signal.
        Ok(code @ 129..=192) => Exit::Signal(code - 128),
        Ok(code @ 0..=255) => Exit::Code(code),
        _ => Exit::Unknown,
    }
}

/// Whether the engine's words say that a port of the host is taken.
pub(crate) fn is_port_taken(words: &str) -> bool {
    ["port is already allocated", "address already in use"]
        .iter()
        .any(|it| words.contains(it))
}

/// Whether the engine's words say that a container ended while it was being changed, which the engine did not know yet.
pub(crate) fn is_ended_meanwhile(words: &str) -> bool {
    ["container not running", "is not running", "No such process"]
        .iter()
        .any(|it| words.contains(it))
}

/// Whether the engine's words say that the container was removed, or is being.
pub(crate) fn is_gone(words: &str) -> bool {
    words.contains("No such container") || words.contains("is marked for removal")
}

/// Whether the engine's words say that an engine that was killed has left something of the container's own last start, which
/// is in the way of this one.
pub(crate) fn is_left_over(words: &str) -> bool {
    words.contains("id already in use")
        || words.contains("task ") && words.contains(": already exists")
        || words.contains("io.containerd.runtime") && words.contains("file exists")
}

/// Whether what the engine says of a start that failed says nothing of the node: it can be started again.
pub(crate) fn says_nothing(seen: &Observed) -> bool {
    is_left_over(&seen.error) || was_refused(seen) && known_start_failure(&seen.error).is_none()
}

/// Whether the last start was refused.
fn was_refused(seen: &Observed) -> bool {
    let ended = matches!(seen.phase, Phase::Exited | Phase::Dead | Phase::Restarting);
    !seen.error.is_empty()
        && (seen.phase == Phase::Created || ended && matches!(seen.exit_code, 125..=128))
}

/// The failure of a start that the engine refused in these words, by its own judgement of the request.
pub(crate) fn start_failure(words: &str) -> Failure {
    known_start_failure(words).unwrap_or_else(|| refused(FailureReason::PlatformRefused, words))
}

fn refused(reason: FailureReason, words: &str) -> Failure {
    Failure::new(
        reason,
        format!("the engine could not start it: {}", one_line(words)),
    )
}

/// The failure of a start in words that tell what is wrong with the node; `None` for any others, which may be of an engine that
/// fails itself.
pub(crate) fn known_start_failure(words: &str) -> Option<Failure> {
    let has = |part: &str| words.contains(part);
    let executes = has("exec") || has("starting container process") || has("crun");
    let reason = if has("unable to find user")
        || has("unable to find group")
        || has("no matching entries in")
    {
        FailureReason::UserUnavailable
    } else if has("bind source path does not exist")
        || has("error mounting")
        || has("error while mounting volume")
    {
        FailureReason::DataUnavailable
    } else if has("exec format error") {
        FailureReason::BadProgramFormat
    } else if has("executable file not found") || executes && has("no such file or directory") {
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

/// Whether its program ended by SIGKILL, as one does of its memory limit.
pub(crate) fn is_killed(seen: &Observed) -> bool {
    let has_ended = matches!(seen.phase, Phase::Restarting | Phase::Exited | Phase::Dead);
    has_ended && exit(seen.exit_code) == Exit::Signal(9)
}

/// The failure of an end; `None` when the program ended with code 0 or has not ended.
pub(crate) fn bad_end(record: &Record, seen: &Observed) -> Option<Failure> {
    if says_nothing(seen) {
        return None;
    }
    if was_refused(seen) {
        return known_start_failure(&seen.error);
    }
    match seen.phase {
        Phase::Created | Phase::Running | Phase::Paused | Phase::Removing => return None,
        Phase::Restarting | Phase::Exited | Phase::Dead => {}
    }
    ended(record, exit(seen.exit_code), seen.out_of_memory)
}

/// The failure of an end with this exit; `None` for code 0.
pub(crate) fn ended(record: &Record, exit: Exit, out_of_memory: bool) -> Option<Failure> {
    if exit.is_success() {
        return None;
    }
    let (reason, message) = match (out_of_memory, exit) {
        (true, _) => {
            let message = match record.config.memory_limit_mb {
                Some(mb) => format!("it reached its memory limit of {mb} MiB"),
                None => "the host ran out of memory".to_owned(),
            };
            (FailureReason::OutOfMemory, message)
        }
        (false, Exit::Signal(signal)) => (
            FailureReason::Signaled,
            format!("its program was ended by signal {signal}"),
        ),
        (false, exit) => (
            FailureReason::Exited,
            format!("its program ended with {exit}"),
        ),
    };
    Some(Failure::new(reason, message).with_exit(exit))
}

/// The failure of a program that ended before it was ready, which wrote these last lines: with what they tell about why.
pub(crate) fn early_end(record: &Record, seen: &Observed, tail: Vec<String>) -> Failure {
    let exit = exit(seen.exit_code);
    let mut failure = bad_end(record, seen).unwrap_or_else(|| {
        let message = format!("its program ended with {exit} before it was ready");
        Failure::new(FailureReason::Exited, message).with_exit(exit)
    });
    if failure.reason == FailureReason::Exited {
        look_closer(record, &mut failure, &tail);
    }
    failure.log_tail = tail;
    failure
}

/// What the last lines tell and the exit code does not.
fn look_closer(record: &Record, failure: &mut Failure, tail: &[String]) {
    let last = tail.last().map(String::as_str).unwrap_or_default();
    let exec = last.starts_with("exec ") || last.contains("exec user process caused");
    if exec && last.contains("exec format error") {
        failure.reason = FailureReason::BadProgramFormat;
        failure.message = format!(
            "its program is none for the engine's machine: {}",
            one_line(last)
        );
    } else if exec && last.contains("no such file or directory") {
        failure.reason = FailureReason::BadProgramFormat;
        failure.message = format!(
            "the interpreter that its program names does not exist: {}",
            one_line(last)
        );
    } else if exec && last.contains("permission denied") {
        failure.reason = FailureReason::NotExecutable;
        failure.message = format!("its program may not be executed: {}", one_line(last));
    } else if record.root != Root::NotAsked && lacks_rights(tail) {
        failure.message += match record.root {
            Root::Granted => "; it lacks a capability (`docker.security.cap_add`)",
            _ => {
                "; its image begins as root, which nodes do not (`docker.security.run_as_image_user`)"
            }
        };
    }
}

/// Whether the last lines say that a right is missing.
pub(crate) fn lacks_rights(tail: &[String]) -> bool {
    tail.iter().any(|it| is_lack_of_rights(it))
}

/// Whether a line of a log says that a right is missing.
fn is_lack_of_rights(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    [
        "operation not permitted",
        "permission denied",
        "must be run as root",
        "eperm",
    ]
    .iter()
    .any(|it| line.contains(it))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{observed, record, request},
        *,
    };

    #[test]
    fn codes_are_exits() {
        assert_eq!(exit(0), Exit::Code(0));
        assert_eq!(exit(42), Exit::Code(42));
        assert_eq!(exit(128), Exit::Code(128));
        assert_eq!(exit(137), Exit::Signal(9));
        assert_eq!(exit(255), Exit::Code(255));
        assert_eq!(exit(-1), Exit::Unknown);
    }

    #[test]
    fn refused_starts_have_reasons() {
        let check = |words: &str, expect: FailureReason| {
            let failure = start_failure(words);
            assert_eq!(failure.reason, expect, "{words}");
            assert!(!failure.message.ends_with('.') && !failure.message.contains('\n'));
        };
        check(
            "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"/nope\": stat /nope: no such file or directory: unknown",
            FailureReason::ProgramNotFound,
        );
        check(
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"x\": executable file not found in $PATH: unknown",
            FailureReason::ProgramNotFound,
        );
        check(
            "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"/x\": permission denied: unknown",
            FailureReason::NotExecutable,
        );
        check(
            "crun: open executable: Permission denied: exec: permission denied",
            FailureReason::NotExecutable,
        );
        check(
            "unable to start container process: exec /x: exec format error",
            FailureReason::BadProgramFormat,
        );
        check(
            "unable to find user nobody: no matching entries in passwd file",
            FailureReason::UserUnavailable,
        );
        check(
            "invalid mount config for type \"bind\": bind source path does not exist: /d",
            FailureReason::DataUnavailable,
        );
        check(
            "cannot set memory limit: container could not join or create cgroup",
            FailureReason::LimitUnavailable,
        );
        check("the moon is full.\nindeed.", FailureReason::PlatformRefused);
    }

    #[test]
    fn a_refusal_in_words_that_nobody_knows_says_nothing_of_the_node() {
        let record = record(request().build().unwrap());
        let check = |phase, code, words: &str, nothing, reason: Option<FailureReason>| {
            let seen = Observed {
                exit_code: code,
                error: words.to_owned(),
                ..observed(phase)
            };
            assert_eq!(says_nothing(&seen), nothing, "{phase:?} {code} {words}");
            let found = bad_end(&record, &seen).map(|it| it.reason);
            assert_eq!(found, reason, "{phase:?} {code} {words}");
        };
        let known = "exec: \"x\": executable file not found in $PATH";
        let missing = Some(FailureReason::ProgramNotFound);
        check(Phase::Created, 127, known, false, missing);
        check(Phase::Created, 128, "the moon is full", true, None);
        check(Phase::Exited, 128, "the moon is full", true, None);
        check(Phase::Exited, 127, known, false, missing);
        check(Phase::Created, 0, "", false, None);
        // It ran since.
        let exited = Some(FailureReason::Exited);
        check(Phase::Exited, 3, "the moon is full", false, exited);
        check(Phase::Running, 0, "the moon is full", false, None);
    }

    #[test]
    fn taken_ports_are_known_by_their_words() {
        for words in [
            "driver failed programming external connectivity on endpoint x: Bind for 127.0.0.1:80 failed: port is already allocated",
            "Error starting userland proxy: listen tcp4 127.0.0.1:80: bind: address already in use",
        ] {
            assert!(is_port_taken(words));
        }
        assert!(!is_port_taken("no space left on device"));
        assert!(is_gone("No such container: 2499b0"));
        assert!(is_gone(
            "container is marked for removal and cannot be started"
        ));
        assert!(!is_gone("network x not found"));
        let ended = "Cannot update container 2499b0: runc did not terminate successfully: exit status 1: container not running\n: unknown";
        assert!(is_ended_meanwhile(ended));
        assert!(!is_ended_meanwhile(
            "Cannot update container 2499b0: no space left on device"
        ));
    }

    #[test]
    fn what_an_engine_that_was_killed_has_left_is_known_by_its_words() {
        for words in [
            "id already in use",
            "task 239408198a85: already exists",
            "failed to create task for container: failed to start shim: mkdir /run/containerd/io.containerd.runtime.v2.task/moby/d47a: file exists",
        ] {
            assert!(is_left_over(words), "{words}");
        }
        for words in [
            "port is already allocated",
            "error mounting: mkdir /data: file exists",
            "Conflict. The container name \"/x\" is already in use by container \"y\"",
        ] {
            assert!(!is_left_over(words), "{words}");
        }
    }

    #[test]
    fn ends_have_reasons() {
        let record = record(request().memory_limit_mb(64).build().unwrap());
        let check = |phase, code, oom, expect: Option<(FailureReason, Exit)>| {
            let seen = Observed {
                exit_code: code,
                out_of_memory: oom,
                ..observed(phase)
            };
            let failure = bad_end(&record, &seen);
            let found = failure.map(|it| (it.reason, it.exit.unwrap()));
            assert_eq!(found, expect, "{phase:?} {code}");
        };
        check(Phase::Exited, 0, false, None);
        check(Phase::Running, 1, false, None);
        check(Phase::Created, 0, false, None);
        check(
            Phase::Exited,
            3,
            false,
            Some((FailureReason::Exited, Exit::Code(3))),
        );
        check(
            Phase::Restarting,
            134,
            false,
            Some((FailureReason::Signaled, Exit::Signal(6))),
        );
        check(
            Phase::Exited,
            137,
            true,
            Some((FailureReason::OutOfMemory, Exit::Signal(9))),
        );
        // A child was killed for the memory, and the program lived on and ended well.
        check(Phase::Exited, 0, true, None);
    }

    #[test]
    fn last_words_tell_more_than_a_code() {
        let check = |root, line: &str, expect: FailureReason, setting: Option<&str>| {
            let mut record = record(request().build().unwrap());
            record.root = root;
            let seen = Observed {
                exit_code: 1,
                ..observed(Phase::Exited)
            };
            let failure = early_end(&record, &seen, vec![line.to_owned()]);
            assert_eq!(failure.reason, expect, "{line}");
            assert_eq!(failure.exit, Some(Exit::Code(1)));
            assert_eq!(failure.log_tail, [line]);
            let named = ["run_as_image_user", "cap_add"]
                .into_iter()
                .find(|it| failure.message.contains(it));
            assert_eq!(named, setting, "{line}");
        };
        use FailureReason::{BadProgramFormat, Exited};
        let exec = "exec /probe: exec format error";
        check(Root::NotAsked, exec, BadProgramFormat, None);
        let old = "standard_init_linux.go:228: exec user process caused: no such file or directory";
        check(Root::Refused, old, BadProgramFormat, None);
        let chown = "chown: changing ownership of '/data': Operation not permitted";
        check(Root::Refused, chown, Exited, Some("run_as_image_user"));
        check(Root::Granted, chown, Exited, Some("cap_add"));
        check(Root::NotAsked, chown, Exited, None);
        check(Root::Refused, "out of cheese", Exited, None);
    }
}
