//! The cases, a file for each subject of the contract.

mod concurrency;
mod data;
mod environment;
mod errors;
mod events;
mod health;
mod hostile;
mod identity;
mod limits;
mod list;
mod log_follow;
mod log_tail;
mod ports;
mod ready;
mod remove;
mod reopen;
mod restart;
mod secrets;
mod spawn;
mod stop;

use crate::Case;

/// Every table of cases, in the order in which they run.
pub(crate) const ALL: &[&[Case]] = &[
    identity::CASES,
    spawn::CASES,
    ready::CASES,
    stop::CASES,
    remove::CASES,
    data::CASES,
    list::CASES,
    restart::CASES,
    reopen::CASES,
    ports::CASES,
    log_tail::CASES,
    log_follow::CASES,
    events::CASES,
    health::CASES,
    limits::CASES,
    secrets::CASES,
    environment::CASES,
    concurrency::CASES,
    errors::CASES,
    hostile::CASES,
];

/// Makes the table of a file from the names of its functions, each with what it needs.
macro_rules! cases {
    ($($name:ident [$($need:ident)*])*) => {
        pub(crate) const CASES: &[$crate::Case] = &[$($crate::Case {
            name: stringify!($name),
            needs: &[$($crate::case::need::$need),*],
            run: |context| Box::pin($name(context)),
        }),*];
    };
}
use cases;
