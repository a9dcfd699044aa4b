//! The master: HTTP for people, gRPC for agents, scheduler and store.
