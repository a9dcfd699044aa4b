//! Secrets: files of the node's user under `/run/secrets`, from a directory that the engine sees or a volume that it fills.
