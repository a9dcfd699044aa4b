use grid_platform_api::{
    Digest, DigestKey, Failure, FailureReason, NodeUid, OwnerId, Program, SpawnConfig, Timestamp,
};

use super::*;
use crate::intent::Goal;

fn intent(mode: RestartMode, goal: Goal) -> Intent {
    let config = SpawnConfig::builder("n", Program::binary("/x", [""; 0]))
        .restart(mode)
        .build()
        .unwrap();
    Intent {
        version: 1,
        owner: OwnerId::from_bytes([1; 16]),
        uid: NodeUid::from_bytes([2; 16]),
        digest: Digest::of(&config, &DigestKey::from_bytes([0; 32])),
        ports: BTreeMap::new(),
        data_path: "/d".into(),
        data_marked: true,
        created_at: Timestamp::UNIX_EPOCH,
        generation: 2,
        restarts: 4,
        goal,
        config,
    }
}

#[test]
fn what_is_done_with_what_is_found() {
    let check = |mode, goal: Goal, record: Option<(State, &str, u64)>, alive, expect: Action| {
        let record = record.map(|(state, boot_id, generation)| Record {
            state,
            boot_id: boot_id.to_owned(),
            generation,
            uid: NodeUid::from_bytes([2; 16]).to_string(),
            restarts: 7,
            ..Record::default()
        });
        let intent = intent(mode, goal);
        let action = decide(&intent, record.as_ref(), alive, "now");
        assert_eq!(action, expect, "{intent:?} {record:?} {alive}");
    };
    use Goal::{Running, Stopped};
    use RestartMode::{Always, Never, OnFailure};
    use State as S;
    let failed = || Goal::Failed {
        failure: Failure::new(FailureReason::Exited, "x"),
    };
    let again = || Action::Start { restarts: 8 };
    // The shim lives.
    check(
        Never,
        Running,
        Some((S::Running, "now", 2)),
        true,
        Action::Watch,
    );
    check(Never, Running, None, true, Action::Watch);
    check(
        Never,
        Stopped,
        Some((S::Running, "now", 2)),
        true,
        Action::FinishStop,
    );
    check(
        Never,
        failed(),
        Some((S::Running, "now", 2)),
        true,
        Action::FinishStop,
    );
    // The shim was killed, or the host went down.
    for state in [S::Starting, S::Running, S::Backoff, S::Stopping] {
        for boot in ["now", "before"] {
            check(OnFailure, Running, Some((state, boot, 2)), false, again());
            check(Always, Running, Some((state, boot, 2)), false, again());
            check(
                Never,
                Running,
                Some((state, boot, 2)),
                false,
                Action::Interrupt,
            );
            check(
                Always,
                Stopped,
                Some((state, boot, 2)),
                false,
                Action::Settle,
            );
            check(
                Always,
                failed(),
                Some((state, boot, 2)),
                false,
                Action::Settle,
            );
        }
    }
    // It ended by itself.
    check(
        OnFailure,
        Running,
        Some((S::Exited, "before", 2)),
        false,
        Action::Rest,
    );
    check(
        OnFailure,
        Running,
        Some((S::Failed, "now", 2)),
        false,
        Action::Rest,
    );
    // It was stopped behind our back, or by the host's own end.
    check(
        OnFailure,
        Running,
        Some((S::Stopped, "now", 2)),
        false,
        Action::Rest,
    );
    check(
        OnFailure,
        Running,
        Some((S::Stopped, "before", 2)),
        false,
        again(),
    );
    check(
        Never,
        Running,
        Some((S::Stopped, "before", 2)),
        false,
        Action::Interrupt,
    );
    // What is stopped stays stopped.
    check(
        Always,
        Stopped,
        Some((S::Stopped, "before", 2)),
        false,
        Action::Rest,
    );
    check(Always, Stopped, None, false, Action::Rest);
    // Cut short between the intent and the start.
    let first = || Action::Start { restarts: 4 };
    check(Never, Running, None, false, first());
    check(Never, Running, Some((S::Stopped, "now", 1)), false, first());
}
