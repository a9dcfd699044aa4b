//! The cases, a file for each subject of the contract.

use crate::Case;

/// Every table of cases, in the order in which they run.
pub(crate) const ALL: &[&[Case]] = &[];
