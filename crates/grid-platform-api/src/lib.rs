//! The contract between Sutra Grid and the platforms that run its nodes.
