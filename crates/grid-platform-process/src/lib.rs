//! The platform that runs nodes as native processes.
