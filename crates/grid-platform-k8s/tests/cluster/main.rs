//! What only a cluster has, and the suite for all platforms cannot show: objects as its API server stores them, the words of its
//! scheduler and its kubelet, what others do to a node's objects, and what a crash leaves.

#[path = "../bed/mod.rs"]
mod bed;
mod foreign;
mod hosts;
mod logs;
mod namespaces;
mod objects;
mod reasons;
mod remains;

use std::{pin::Pin, process::ExitCode, time::Duration};

use bed::Bed;
use grid_platform_testing::{Failed, Outcome};
use libtest_mimic::{Arguments, Trial};

/// How many cases run at once: what they do is wait, most of all for a kubelet that takes ten seconds for a pod's end.
const AT_ONCE: usize = 10;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(180);

type Case = Pin<Box<dyn Future<Output = Outcome>>>;

macro_rules! cases {
    ($($room:ident: $($case:ident)*;)*) => {
        vec![$($(trial(concat!(stringify!($room), "::", stringify!($case)), || Box::pin($room::$case()))),*),*]
    };
}

fn trial(name: &str, case: fn() -> Case) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let ran = runtime.block_on(async { tokio::time::timeout(LIMIT, case()).await });
        match ran {
            Ok(ended) => ended.map_err(|why| why.to_string().into()),
            Err(_) => Err(Failed::new(format!("it is not over after {LIMIT:?}"))
                .to_string()
                .into()),
        }
    })
}

/// The longest first.
fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let trials = cases! {
        hosts:
            a_host_that_is_lost_leaves_a_stop_unconfirmed
            an_evicted_node_says_so_and_starts_again;
        remains:
            a_lease_of_an_agent_that_lives_is_not_taken
            a_node_without_its_pod_is_listed_and_starts_on_its_data
            a_record_that_somebody_edited_is_no_node_that_went
            what_belongs_to_no_node_is_taken_away
            what_is_in_the_way_of_a_spawn_and_ours_is_replaced;
        namespaces:
            a_namespace_that_is_deleted_takes_no_node
            a_quota_is_a_reason_with_its_figures
            a_limit_that_a_quota_wants_is_asked_for;
        logs:
            a_log_goes_on_over_restarts_and_pods;
        foreign:
            what_somebody_else_made_is_left_alone
            what_another_agent_made_is_left_alone
            what_is_being_deleted_is_waited_out
            a_claim_that_is_being_deleted_is_waited_out;
        reasons:
            a_node_that_fills_its_hosts_disk_is_evicted_by_the_kubelet
            a_pod_that_is_deleted_comes_back_by_a_spawn
            a_pod_that_is_evicted_comes_back_by_a_spawn
            a_program_that_keeps_failing_shows_its_restarts
            a_node_out_of_memory_says_so_while_it_goes_on
            an_image_that_is_nowhere_is_named
            a_node_that_no_host_takes_has_the_schedulers_words
            a_host_that_refuses_a_pod_is_a_reason
            a_claim_that_gets_no_volume_is_a_reason;
        objects:
            a_cluster_ip_leads_to_its_node
            a_headless_service_leads_to_its_node
            a_port_of_the_hosts_leads_to_its_node
            what_the_settings_add_is_what_the_server_stores
            a_secret_is_in_its_secret_alone;
    };
    let is_list = arguments.list;
    let ended = libtest_mimic::run(&arguments, trials).exit_code();
    if !is_list {
        Bed::end();
    }
    ended
}
