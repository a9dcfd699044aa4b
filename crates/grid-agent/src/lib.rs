//! The agent: settings, platform, reconcile loop and the link to the master.
