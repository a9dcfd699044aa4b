//! Deliberately broken platforms, each with one fault, and the cases that catch it: a suite that passes everything
//! shows nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wrapper;

use std::sync::Arc;

use grid_platform_testing::{Case, Flaw, Harness, MemoryHarness, Wrapped, cases, check_case};
use wrapper::{Broken, How};

/// Runs these cases on a broken platform: each of them has to fail.
fn caught(harness: &dyn Harness, by: &[&str]) {
    for name in by {
        let case = binding(harness).into_iter().find(|case| case.name == *name);
        let case = case.unwrap_or_else(|| panic!("no case `{name}` binds the platform"));
        if check_case(harness, case).is_ok() {
            panic!(
                "`{name}` did not catch it; these do: {:?}",
                all_that_catch(harness)
            );
        }
    }
    assert!(
        !by.is_empty(),
        "name the cases: {:?}",
        all_that_catch(harness)
    );
}

fn all_that_catch(harness: &dyn Harness) -> Vec<&'static str> {
    let catches = binding(harness)
        .into_iter()
        .filter(|case| check_case(harness, case).is_err());
    catches.map(|case| case.name).collect()
}

/// The cases that bind the platform, as it says itself.
fn binding(harness: &dyn Harness) -> Vec<&'static Case> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let survey = runtime.block_on(harness.survey()).unwrap();
    cases()
        .filter(|case| case.missing(&survey).is_empty())
        .collect()
}

fn flawed(flaw: Flaw, by: &[&str]) {
    caught(&MemoryHarness::broken(flaw), by);
}

fn wrapped(how: How, by: &[&str]) {
    let dress = move |inner| {
        Arc::new(Broken {
            inner,
            how,
            turn: tokio::sync::Mutex::default(),
        }) as _
    };
    caught(
        &Wrapped::new("broken", Arc::new(MemoryHarness::new()), dress),
        by,
    );
}

macro_rules! broken {
    ($($test:ident $kind:ident($($fault:tt)*) [$($case:ident)*])*) => {
        $(#[test]
        fn $test() {
            $kind($($fault)*, &[$(stringify!($case)),*]);
        })*
    };
}

broken! {
    leaks_on_stop flawed(Flaw::LeavesTheTree) [
        stop_takes_the_whole_tree
        remove_takes_the_whole_tree
        a_failed_spawn_leaves_no_process
        a_restart_waits_until_nothing_is_left
    ]
    stop_returns_early flawed(Flaw::StopsEarly) [
        stop_returns_when_nothing_of_the_node_is_left
        stop_kills_what_ignores_the_signal
    ]
    ignores_the_stop_signal flawed(Flaw::AlwaysSendsTerm) [
        stop_sends_the_signal_of_the_request
    ]
    gives_no_grace flawed(Flaw::GivesNoGrace) [
        stop_gives_the_program_its_grace
        stop_sends_the_signal_of_the_request
    ]
    doubles_on_adopt flawed(Flaw::DoublesOnAdopt) [
        a_node_outlives_the_adapter
        many_adapters_one_after_the_other_double_nothing
        a_spawn_after_a_reopen_finds_the_node
    ]
    forgets_on_reopen flawed(Flaw::ForgetsOnReopen) [
        a_node_outlives_the_adapter
        stopped_stays_stopped_over_a_reopen
        the_port_of_a_stopped_node_is_its_own_over_a_reopen
    ]
    starts_stopped_nodes_on_reopen flawed(Flaw::StartsStoppedOnReopen) [
        stopped_stays_stopped_over_a_reopen
        many_adapters_one_after_the_other_double_nothing
    ]
    overwrites_on_conflict flawed(Flaw::OverwritesOnConflict) [
        another_request_is_a_conflict_and_changes_nothing
        another_request_for_a_stopped_node_is_a_conflict
        another_secret_is_another_request
    ]
    starts_twice_on_respawn flawed(Flaw::SpawnsTwice) [
        spawn_is_idempotent
        fifty_spawns_of_one_id_are_one_boot
    ]
    new_uid_at_start flawed(Flaw::NewUidAtStart) [
        start_after_stop_keeps_uid_ports_and_data
        start_after_a_failure_starts_again
    ]
    forgets_failures flawed(Flaw::ForgetsFailures) [
        alive_fails_when_the_program_ends_first
        a_program_that_is_not_there_is_a_typed_failure
        failed_stays_failed_over_a_reopen
    ]
    releases_ports_at_stop flawed(Flaw::ReleasesPortsAtStop) [
        the_port_of_a_stopped_node_is_still_its_own
        the_port_of_a_stopped_node_is_its_own_over_a_reopen
    ]
    purges_foreign_data flawed(Flaw::PurgesForeignData) [
        a_folder_that_was_there_is_never_deleted
        a_folder_that_was_there_survives_keep_and_purge
    ]
    loses_kept_data flawed(Flaw::LosesKeptData) [
        kept_data_is_found_by_the_next_node
        leftovers_are_listed
        remove_twice_succeeds
    ]
    shares_data flawed(Flaw::SharesData) [
        data_of_another_node_is_refused
        kept_data_of_another_node_is_refused
    ]
    keeps_purged_data flawed(Flaw::KeepsPurgedData) [
        purge_deletes_the_data
        purge_after_keep_deletes_what_was_kept
        what_the_platform_made_at_a_storage_path_is_purged
    ]
    restarts_what_is_stopped flawed(Flaw::RestartsWhatIsStopped) [
        what_is_stopped_is_not_restarted
    ]
    forgets_why_memory flawed(Flaw::ForgetsWhyMemory) [
        memory_beyond_the_limit_is_a_typed_failure
        memory_used_up_before_ready_fails_the_spawn
    ]
    never_restarts flawed(Flaw::NeverRestarts) [
        on_failure_restarts_a_crash
        always_restarts_a_clean_end
        a_crash_that_no_adapter_saw_is_restarted
    ]
    puts_secrets_into_the_environment flawed(Flaw::PutsSecretsIntoTheEnvironment) [
        a_secret_shows_nowhere_else
        a_secret_is_in_the_environment_by_name_only
    ]
    inherits_the_environment flawed(Flaw::InheritsTheEnvironment) [
        nothing_of_the_adapters_environment_is_inherited
    ]
    is_not_serial flawed(Flaw::NotSerial) [
        a_spawn_behind_a_stop_starts_one_program
    ]
    stop_waits_for_the_spawn flawed(Flaw::StopWaitsForSpawn) [
        a_stop_supersedes_a_spawn_in_flight
        a_remove_supersedes_a_spawn_in_flight
    ]

    takes_what_is_malformed flawed(Flaw::TakesWhatIsMalformed) [
        hostile_storage_paths_are_refused
        hostile_programs_are_refused
        hostile_environments_arguments_and_labels_are_refused
        hostile_secrets_are_refused
        hostile_users_are_refused
        an_invalid_request_leaves_nothing
    ]
    promises_any_memory flawed(Flaw::PromisesAnyMemory) [
        memory_of_none_or_beyond_the_machine_is_refused
    ]

    has_a_new_owner_each_time wrapped(How::NewOwnerEachTime) [
        the_owner_stays_the_same_over_a_reopen
    ]
    is_ready_at_once wrapped(How::ReadyAtOnce) [
        alive_fails_when_the_program_ends_first
        healthy_waits_for_the_check
        a_failed_spawn_leaves_no_process
    ]
    does_one_thing_at_a_time wrapped(How::OneAtATime) [
        a_slow_spawn_holds_up_no_other_node
    ]
    allocates_ports_that_were_asked_for wrapped(How::AllocatesAskedPorts) [
        a_requested_port_is_the_one
        a_port_that_a_stranger_has_is_in_use
    ]
    restarts_any_end wrapped(How::RestartsAnyEnd) [
        never_leaves_a_crash_failed
        never_leaves_a_clean_end_stopped
        on_failure_leaves_a_clean_end_stopped
    ]
    ignores_the_user wrapped(How::IgnoresTheUser) [
        a_node_runs_as_the_user_that_is_asked_for
        an_unknown_user_is_a_typed_failure
    ]
    loses_the_environment wrapped(How::LosesTheEnvironment) [
        the_environment_asked_for_is_given
    ]
    loses_arguments wrapped(How::LosesTheArguments) [
        arguments_reach_the_program_as_they_are
        a_program_is_told_its_place_by_its_arguments
    ]
    loses_exits wrapped(How::LosesExits) [
        stop_gives_the_program_its_grace
    ]
    tells_another_end_each_time wrapped(How::StopEndsTwice) [
        stop_is_idempotent
    ]
    lists_short wrapped(How::ListsShort) [
        the_list_has_every_node_in_order
        many_nodes_at_once_are_many_nodes
    ]
    lists_running_nodes_only wrapped(How::ListsRunningOnly) [
        the_list_has_every_node_in_order
        alive_fails_when_the_program_ends_first
    ]
    lists_in_any_order wrapped(How::ListsBackwards) [
        the_list_has_every_node_in_order
        many_nodes_at_once_are_many_nodes
    ]
    lies_in_list wrapped(How::LiesInList) [
        the_list_says_what_status_says
        the_state_follows_the_program_and_not_the_wish
    ]
    lies_in_status wrapped(How::LiesInStatus) [
        stop_returns_when_nothing_of_the_node_is_left
        the_list_says_what_status_says
    ]
    alive_for_unknown_ids wrapped(How::AliveForUnknown) [
        unknown_ids_are_unknown_to_every_call
        alive_is_true_of_a_program_that_runs_alone
    ]
    stop_of_unknown_succeeds wrapped(How::StopOfUnknownSucceeds) [
        unknown_ids_are_unknown_to_every_call
    ]
    remove_of_unknown_fails wrapped(How::RemoveOfUnknownFails) [
        remove_of_an_unknown_id_succeeds
        remove_twice_succeeds
        purge_after_keep_deletes_what_was_kept
    ]
    follow_doubles_lines wrapped(How::FollowDoubles) [
        a_follower_sees_every_line_once_and_in_order
        a_follower_goes_on_behind_a_position
    ]
    follow_loses_lines wrapped(How::FollowLoses) [
        a_follower_sees_every_line_once_and_in_order
        a_follower_goes_on_in_another_adapter
    ]
    follow_never_ends wrapped(How::FollowNeverEnds) [
        a_follower_ends_when_the_node_is_removed
    ]
    tail_is_backwards wrapped(How::TailBackwards) [
        a_tail_is_the_last_lines_in_order
    ]
    events_without_snapshot wrapped(How::EventsWithoutSnapshot) [
        a_snapshot_comes_first
        a_snapshot_of_nothing_comes_too
    ]
    events_without_removals wrapped(How::EventsWithoutRemovals) [
        a_removal_is_an_event_with_its_uid
        the_last_event_of_a_node_is_its_state
    ]
    events_without_crashes wrapped(How::EventsWithoutFailures) [
        a_crash_is_an_event
    ]
    errors_without_names wrapped(How::ErrorsWithoutNames) [
        errors_name_platform_operation_and_node
        errors_speak_as_they_should
    ]
    errors_to_retry_for_ever wrapped(How::ErrorsToRetry) [
        errors_say_whether_a_retry_can_help
    ]
    cuts_paths_at_spaces wrapped(How::CutsPathsAtSpaces) [
        a_path_with_spaces_and_letters_of_the_world_is_used
    ]
    takes_what_it_cannot_do wrapped(How::IgnoresLimits) [
        what_the_platform_cannot_do_is_unsupported
    ]
    always_healthy wrapped(How::AlwaysHealthy) [
        a_tcp_check_is_healthy_once_the_port_is_served
    ]
    gives_up_when_the_caller_does wrapped(How::StopsWhenDropped) [
        a_spawn_whose_caller_goes_away_is_found
        a_spawn_that_lost_its_adapter_is_found
    ]
}
