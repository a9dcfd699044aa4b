//! Layered settings: defaults, file, environment, flags.
