#![doc = include_str!("../README.md")]

mod agent;
mod backoff;
pub mod cli;
mod desired;
mod doctor;
mod factory;
mod host;
mod link;
mod logging;
mod master;
mod reconcile;
mod settings;
mod state;
mod stop;
mod token;

pub use agent::{run, run_with};
pub use doctor::doctor;
pub use factory::{PlatformConfig, create_platform};
pub use logging::init_logging;
pub use settings::{
    AgentSection, DockerSection, Images, KubernetesSection, LogFormat, OverlaySection, PortRange,
    Programs, PullPolicy, SecuritySection, ServiceKind, Settings, StorageSection,
    TolerationSection,
};
pub use stop::{Stopped, stop_nodes};
