//! Deliberate faults.

/// One way in which a [`MemoryPlatform`](crate::MemoryPlatform) is deliberately broken, to see a test catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A stop ends the program and leaves what the program started.
    LeavesTheTree,
    /// A stop returns before the program has ended.
    StopsEarly,
    /// A stop sends `SIGTERM`, whatever the request says.
    AlwaysSendsTerm,
    /// A stop kills at once.
    GivesNoGrace,
    /// A new adapter starts every running node a second time.
    DoublesOnAdopt,
    /// A new adapter has forgotten every node.
    ForgetsOnReopen,
    /// A new adapter starts stopped nodes.
    StartsStoppedOnReopen,
    /// Another request for an existing id replaces it.
    OverwritesOnConflict,
    /// A spawn of a node that runs starts its program once more.
    SpawnsTwice,
    /// A start after a stop makes a new incarnation.
    NewUidAtStart,
    /// A failed spawn leaves no record.
    ForgetsFailures,
    /// Ports are free for others once the node is stopped.
    ReleasesPortsAtStop,
    /// Removing with `Purge` deletes a folder that was there before.
    PurgesForeignData,
    /// Removing with `Keep` deletes the data.
    LosesKeptData,
    /// Data of one node is given to another.
    SharesData,
    /// Removing with `Purge` keeps the data.
    KeepsPurgedData,
    /// A program that is stopped is restarted by its policy.
    RestartsWhatIsStopped,
    /// Reaching the memory limit is told as any other signal.
    ForgetsWhyMemory,
    /// No program is ever restarted.
    NeverRestarts,
    /// Secrets are put into the environment, asked for or not.
    PutsSecretsIntoTheEnvironment,
    /// Programs see the environment of the adapter.
    InheritsTheEnvironment,
    /// Calls on one id run at the same time.
    NotSerial,
    /// A stop waits until a spawn in flight has ended by itself.
    StopWaitsForSpawn,
    /// Requests are not checked.
    TakesWhatIsMalformed,
    /// A memory limit beyond the host's memory is taken.
    PromisesAnyMemory,
}
