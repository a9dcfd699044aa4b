//! The built-in storage server: objects over HTTP on an embedded durable store.
