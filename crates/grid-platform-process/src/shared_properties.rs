//! Properties of what shim and adapter write for each other: any value comes back, and no bit turns over unseen.

use proptest::{collection::vec, option::of, prelude::*, sample::Index};

use crate::shared::{
    launch::{Launch, User},
    policy::{Policy, Restart},
    record::{self, FILE, Record, SLOT, State, Stored},
};

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Starting),
        Just(State::Running),
        Just(State::Backoff),
        Just(State::Stopping),
        Just(State::Stopped),
        Just(State::Exited),
        Just(State::Failed),
    ]
}

/// Any text but line feeds, which end a value.
const LINE: &str = "[^\n]{0,40}";

fn record() -> impl Strategy<Value = Record> {
    (
        (LINE, LINE, any::<[u64; 9]>(), any::<[u32; 2]>()),
        (state(), of(any::<i32>()), of(any::<i32>()), any::<bool>()),
        (of(LINE), of(any::<i32>())),
    )
        .prop_map(
            |(
                (boot_id, uid, n, pids),
                (state, exit_code, signal, oom),
                (fail_stage, fail_errno),
            )| Record {
                boot_id,
                uid,
                generation: n[0],
                shim_pid: pids[0],
                shim_start: n[1],
                pid: pids[1],
                pid_start: n[2],
                state,
                restarts: n[3],
                started_ms: n[4],
                finished_ms: n[5],
                exit_code,
                signal,
                oom,
                fail_stage,
                fail_errno,
                next_start_ms: n[6],
                log_low: n[7],
                log_base: n[8],
            },
        )
}

/// Any bytes but NUL, which ends a value.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(1u8.., 0..30)
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    bytes().prop_map(|name| [b"/", name.as_slice()].concat())
}

/// A variable's or a file's name: not empty, without what separates it.
fn name() -> impl Strategy<Value = Vec<u8>> {
    "[a-zA-Z_][a-zA-Z0-9_.-]{0,9}".prop_map(String::into_bytes)
}

fn launch() -> impl Strategy<Value = Launch> {
    let restart = prop_oneof![
        Just(Restart::Never),
        Just(Restart::OnFailure),
        Just(Restart::Always)
    ];
    let user = (any::<u32>(), any::<u32>(), vec(any::<u32>(), 0..4))
        .prop_map(|(uid, gid, groups)| User { uid, gid, groups });
    (
        ("[^\0]{0,40}", path(), path(), any::<[u64; 6]>()),
        (
            vec(bytes(), 0..4),
            vec(
                (name(), bytes()).prop_map(|(name, value)| [name, value].join(&b'=')),
                0..4,
            ),
            vec((name(), name()), 0..3),
            vec(path(), 0..3),
        ),
        (of(user), of(any::<u64>()), 1i32..=64, restart),
        (of(any::<u64>()), of(any::<u64>()), of(any::<u64>())),
    )
        .prop_map(
            |(
                (uid, program, dir, n),
                (args, env, env_secrets, cgroup_procs),
                (user, nofile, stop_signal, restart),
                (max_restarts, log_max_bytes, trial_ms),
            )| Launch {
                uid,
                generation: n[0],
                restarts: n[1],
                program,
                args,
                env,
                env_secrets,
                dir,
                user,
                nofile,
                cgroup_procs,
                stop_signal,
                grace_ms: n[2],
                policy: Policy {
                    restart,
                    backoff_initial_ms: n[3],
                    backoff_max_ms: n[4],
                    reset_after_ms: n[5],
                    max_restarts,
                },
                log_max_bytes,
                trial_ms,
            },
        )
}

proptest! {
    #[test]
    fn the_newest_record_is_read_and_a_flipped_bit_never_makes_another(
        older in record(),
        newer in record(),
        seq in 0..u64::MAX,
        at in any::<Index>(),
    ) {
        let mut file = vec![0; FILE];
        let stored = [Stored { seq, record: older }, Stored { seq: seq + 1, record: newer }];
        for it in &stored {
            let (offset, slot) = it.record.encode(it.seq).unwrap();
            let offset = usize::try_from(offset).unwrap();
            file[offset..offset + SLOT].copy_from_slice(&slot);
        }
        prop_assert_eq!(record::read(&file), Some(stored[1].clone()));
        let bit = at.index(FILE * 8);
        file[bit / 8] ^= 1 << (bit % 8);
        let read = record::read(&file).unwrap();
        prop_assert!(stored.contains(&read), "{:?}", read);
    }

    #[test]
    fn launches_come_back_and_a_flipped_bit_is_refused(launch in launch(), at in any::<Index>()) {
        let mut file = launch.encode().unwrap();
        prop_assert_eq!(Launch::decode(&file), Ok(launch));
        let cut = at.index(file.len());
        prop_assert!(Launch::decode(&file[..cut]).is_err());
        let bit = at.index(file.len() * 8);
        file[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Launch::decode(&file).is_err());
    }

    #[test]
    fn bytes_of_any_kind_end_nobody(bytes in vec(any::<u8>(), 0..2 * FILE)) {
        prop_assert_eq!(record::read(&bytes), None);
        prop_assert!(Launch::decode(&bytes).is_err());
    }
}
