//! The parent of one node. See `PROTOCOL.md` for what it promises and how it is started.
//!
//! One thread, no dependencies, little memory: a host may run hundreds of it.

mod budget;
mod child;
mod clients;
mod failure;
mod fault;
mod log;
mod node;
#[allow(dead_code, reason = "the adapter uses the other half")]
mod shared;
mod store;
mod sys;
mod tree;

use log::Marks;
use node::Node;
use shared::words::Report;
use std::fs::File;
use std::process::ExitCode;
use store::Store;

/// Started by hand, or by something that is not the adapter.
const NOT_AN_ADAPTER: u8 = 64;

fn main() -> ExitCode {
    let (Ok(lock), Ok(report)) = (sys::inherit(3), sys::inherit(4)) else {
        return ExitCode::from(NOT_AN_ADAPTER);
    };
    let mut report = File::from(report);
    sys::close_from(5);
    // The program inherits it.
    sys::set_umask(0o027);
    let started = Store::open().and_then(|(store, kept)| {
        let marks = kept.then_some(Marks {
            low: store.record.log_low,
            base: store.record.log_base,
        });
        Node::start(store, marks)
    });
    match started {
        Ok((node, executed)) => {
            let _ = fault::point("shim-before-report");
            node::tell(&mut report, executed);
            drop(report);
            let clients = node.live();
            // The order is a promise: whoever is told may start the node again at once.
            drop(lock);
            let _ = fault::point("shim-before-stopped");
            clients.stopped();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            drop(lock);
            node::tell(
                &mut report,
                Report::Failed {
                    stage: failure.stage,
                    errno: failure.errno,
                },
            );
            ExitCode::FAILURE
        }
    }
}
