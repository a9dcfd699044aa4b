//! The HTTP API's types and a typed client.
