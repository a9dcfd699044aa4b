//! Data: whether agent and engine see one file system, and the directories of nodes where they do.
