#![doc = include_str!("../README.md")]

mod access;
mod claims;
mod config;
mod error;
mod events;
mod exec;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod faults_tests;
mod holder;
mod keeper;
mod kubeconfig;
mod lease;
mod lifecycle;
mod logs;
mod objects;
mod owner;
mod platform;
mod pods;
mod probe;
mod refusal;
mod registry;
mod rights;
mod translate;
mod transport;
mod usage;
mod watch;
mod watched;

pub use config::{Allow, KubernetesConfig, Overlay, ServiceKind, Toleration};
pub use platform::KubernetesPlatform;
