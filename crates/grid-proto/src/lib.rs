//! Wire types between agent and master, and their conversions.
