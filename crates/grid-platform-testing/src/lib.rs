//! MemoryPlatform, fixtures, fault injection and the conformance suite for platform adapters.
