//! Data in labelled volumes of the engine, where agent and engine see no common file system.
