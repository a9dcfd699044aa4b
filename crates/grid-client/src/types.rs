//! What the HTTP API speaks in.

use std::{collections::BTreeMap, net::IpAddr};

use grid_platform_api::{
    ErrorReport, Exit, Failure, HealthCheck, NodeId, Progress, ReadyMode, RestartPolicy, RunAs,
    SecretValue, StopPolicy,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::{IntoParams, ToSchema};

/// `POST /api/grid/spawn`: a node to make. Only `node_id` is wanted, and even that can be left out: then the master
/// makes one up and the answer tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpawnRequest {
    /// The node's id: 1 to 40 of `a-z`, `0-9`, `-`, a letter first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$")]
    pub node_id: Option<NodeId>,
    /// The agent that shall run it; left out, the master places it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Labels that an agent must have to be chosen.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub agent_labels: BTreeMap<String, String>,
    /// What the node shall be.
    #[serde(flatten)]
    pub settings: NodeSettings,
}

/// `PUT /api/grid/nodes/{id}`: the settings that change. What is left out stays as it is; the id, the agent, the
/// data and the ports stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateRequest {
    /// The settings that change.
    #[serde(flatten)]
    pub settings: NodeSettings,
    /// Change only this generation of the node; another one answers 409.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// What a node can be set to be. Every field may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeSettings {
    /// The main port; 0 or left out: one is allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// More ports by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<BTreeMap<String, u16>>,
    /// The address the program binds; loopback if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub bind_address: Option<IpAddr>,
    /// Where the data is, within the roots that the agent allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_path: Option<String>,
    /// How much data there may be, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_size_mb: Option<u64>,
    /// Memory, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_mb: Option<u64>,
    /// Processor time, in thousandths of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millis: Option<u32>,
    /// How many processes and threads there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u32>,
    /// How many descriptors each process may have open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files_limit: Option<u64>,
    /// A program of the agent's host: an absolute path, or a bare name. Left out with `image`, the agent's own
    /// `[storage] binary_path` (or image) is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
    /// An image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Arguments of `binary` or `image`, with `{port}`, `{bind}`, `{data_path}`, `{node_id}`, `{secrets_dir}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Who to run as.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub run_as: Option<RunAs>,
    /// The environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Secrets by name; values are accepted and never shown.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "secrets")]
    #[schema(value_type = Option<BTreeMap<String, String>>, write_only)]
    pub secrets: Option<BTreeMap<String, SecretValue>>,
    /// Secrets that are given by environment too: variable by secret's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<BTreeMap<String, String>>,
    /// When it is restarted: `{"mode": "on-failure", ...}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub restart: Option<RestartPolicy>,
    /// How it is stopped: `{"signal": "TERM", "grace_ms": 10000}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub stop: Option<StopPolicy>,
    /// When spawning is done: `{"mode": "alive", "for_ms": 250}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub ready: Option<ReadyMode>,
    /// How to know that it serves: `{"kind": "http", "path": "/healthz"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub health: Option<HealthCheck>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Settings of one adapter, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub adapter: Option<BTreeMap<String, serde_json::Value>>,
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It shall run.
    Running,
    /// It shall not run; its record, ports and data stay.
    Stopped,
    /// It is being removed.
    Removed,
    /// The master has no wish for it: an agent found it. It is left running.
    Unmanaged,
}

/// How a node is, as far as the master knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is wanted and not running yet, or waits out a back-off.
    Pending,
    /// Its program runs.
    Running,
    /// It was asked to end.
    Stopping,
    /// It is not running and should not.
    Stopped,
    /// It is not running and nothing will start it again by itself; `failure` or `error` says why.
    Failed,
    /// Its agent is lost, or has not told yet since it or the master was started; how the node is cannot be known.
    /// Nothing is started elsewhere.
    Unknown,
}

impl State {
    /// The state as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// A node as the master shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// The node's id.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// The agent that has it.
    pub agent: String,
    /// The platform it runs on.
    #[serde(default)]
    pub platform: Option<String>,
    /// What is wanted of it.
    pub desired: Desired,
    /// How it is.
    pub state: State,
    /// `unchecked`, `starting`, `healthy` or `unhealthy`; `unchecked` too for a node that does not run, or of which
    /// that is not known.
    pub health: String,
    /// What the health check last said, when it is unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_message: Option<String>,
    /// Where clients reach its main port: `host:port`.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Every port by name.
    #[serde(default)]
    pub ports: BTreeMap<String, u16>,
    /// Its process id on the agent's host, where the platform has one, while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// How often the platform restarted it by itself.
    pub restarts: u32,
    /// Rises with every change of what is wanted.
    pub generation: u64,
    /// The newest generation that the agent has acted on.
    pub observed_generation: u64,
    /// Its incarnation on the platform.
    #[serde(default)]
    pub uid: Option<String>,
    /// The platform's own handle.
    #[serde(default)]
    pub native_handle: Option<String>,
    /// Where its data is on the agent's host.
    #[serde(default)]
    pub data_path: Option<String>,
    /// How it last ended badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub failure: Option<Failure>,
    /// How the program ended, for a node that is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub exit: Option<Exit>,
    /// Why the newest generation is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub error: Option<ErrorReport>,
    /// How far its agent is with what it waits for, such as its image's pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub progress: Option<Progress>,
    /// Its image as the platform has it, on platforms with images: `name@sha256:...` where it came from a registry, else
    /// its own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it was asked to be; secrets by name only. Absent for an unmanaged node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<NodeSettings>,
    /// When it was made, RFC 3339.
    #[serde(default)]
    pub created_at: Option<String>,
    /// When its program was last started, RFC 3339.
    #[serde(default)]
    pub started_at: Option<String>,
    /// When its program last ended, RFC 3339.
    #[serde(default)]
    pub finished_at: Option<String>,
}

/// Whether the master hears an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It is connected.
    Ready,
    /// It went silent; its nodes are unknown.
    Lost,
}

/// An agent as the master shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its display name.
    pub id: String,
    /// Whether it is heard.
    pub state: AgentState,
    /// It has a session, and has told in it which nodes it has: what is shown of them is current. Without one, what is
    /// shown is what was seen last.
    #[serde(default)]
    pub connected: bool,
    /// No new nodes are placed on it; those it has stay.
    pub cordoned: bool,
    /// Its platform.
    pub platform: String,
    /// The version of its program.
    pub version: String,
    /// How many nodes it has.
    pub nodes: u32,
    /// How many it may have; 0 is no limit.
    pub max_storage_nodes: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Memory of its host, in MiB; 0 is unknown.
    pub memory_mb: u64,
    /// Processors of its host, in thousandths; 0 is unknown.
    pub cpu_millis: u32,
    /// The install id its credential is bound to.
    pub install_id: String,
    /// When it was last heard, RFC 3339.
    #[serde(default)]
    pub last_seen: Option<String>,
    /// Why the master refused it when it last tried to connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub error: Option<ErrorReport>,
}

/// Something that happened, as `GET /api/grid/events` tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Rises by one with each event; give the last one seen as `Last-Event-ID` to resume.
    pub id: u64,
    /// When, RFC 3339.
    pub at: String,
    /// What: `node.created`, `node.changed`, `node.progress`, `node.removed`, `agent.ready`, `agent.lost`, `agent.cordoned`,
    /// `agent.uncordoned`, `agent.refused`, `agent.removed`, `resync` (events before this one are no longer kept: read the lists again).
    pub kind: String,
    /// The node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// The agent it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// In words: lower case, no full stop.
    pub message: String,
    /// The node's state behind the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// One piece of a log, a line of `application/x-ndjson`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogRecord {
    /// A line.
    Line {
        /// The cursor behind it: `after:...`.
        cursor: String,
        /// When it was written, RFC 3339, where the platform knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
        /// `combined`, `stdout` or `stderr`.
        source: String,
        /// The line, when it is UTF-8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// The line's bytes as standard base64, when it is not UTF-8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base64: Option<String>,
        /// The line goes on in the next record.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    /// Lines are gone.
    Gap {
        /// The position before the loss.
        from: String,
        /// The first position that is retained.
        to: String,
        /// What took them.
        reason: String,
    },
    /// The log broke off; the stream ends.
    Error {
        /// Why.
        #[schema(value_type = Object)]
        error: ErrorReport,
    },
}

/// What a node uses now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// When it was read, RFC 3339.
    pub at: String,
    /// Processor time since the program's start, in milliseconds.
    pub cpu_time_ms: Option<u64>,
    /// Resident memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The memory limit, in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Disk, in bytes.
    pub disk_bytes: Option<u64>,
    /// Processes.
    pub processes: Option<u32>,
}

/// Data of a node that exists, or of a removed one whose data was kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Data {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The agent that has it.
    pub agent: String,
    /// Where it is.
    pub location: String,
    /// Whether the node exists; data in use is purged only with its node.
    pub in_use: bool,
    /// Whether the platform made it; what it did not make it never deletes.
    pub created_by_platform: bool,
    /// Its size in bytes, where known.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// What a bearer token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything that people do.
    Admin,
    /// Look, and change nothing.
    Read,
    /// Be an agent. Bound to the install id that uses it first.
    Agent,
}

impl Role {
    /// The role as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Agent => "agent",
        }
    }
}

/// A token as the master shows it: never its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Names the token; it is the first part of its value.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// A note for people.
    #[serde(default)]
    pub note: Option<String>,
    /// The install id it is bound to.
    #[serde(default)]
    pub install_id: Option<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// `POST /api/grid/tokens`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it may do.
    pub role: Role,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The answer to [`CreateToken`]: the only time the value is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// Its value.
    pub value: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken")
            .field("token", &self.token)
            .field("value", &"<secret>")
            .finish()
    }
}

/// `GET /api/grid/version`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The master's version.
    pub version: String,
    /// The grid's id.
    pub grid_id: String,
    /// The store's epoch.
    pub epoch: u64,
    /// The store's revision.
    pub revision: u64,
}

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    #[schema(value_type = Object)]
    pub error: ErrorReport,
}

/// Which nodes to list: `GET /api/grid/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NodeFilter {
    /// Only this agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only those in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub state: Option<State>,
}

/// Which part of a log: `GET /api/grid/nodes/{id}/logs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Where to begin: `start`, `end`, `tail:N`, `since:TIME`, `after:POSITION`; left out: `tail:100`.
    #[param(pattern = "^(start|end|tail:[0-9]{1,9}|since:.+|after:.+)$")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Go on with what is written later.
    pub follow: bool,
}

/// Secrets as a request has them; what serde would say of another type quotes it.
fn secrets<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<BTreeMap<String, SecretValue>>, D::Error> {
    Option::deserialize(d).map_err(|_| D::Error::custom("the secrets are not texts by their names"))
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Error, ErrorKind};
    use proptest::{option::of, prelude::*};

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let state = prop_oneof![
            Just(State::Pending),
            Just(State::Running),
            Just(State::Stopping),
            Just(State::Stopped),
            Just(State::Failed),
            Just(State::Unknown)
        ];
        (
            any::<u64>(),
            ["\\PC{0,20}", "\\PC{0,20}", "\\PC{0,40}"],
            of("[a-z]([-a-z0-9]{0,38}[a-z0-9])?"),
            of("\\PC{0,20}"),
            of(state),
        )
            .prop_map(|(id, [at, kind, message], node, agent, state)| Event {
                id,
                at,
                kind,
                node: node.map(|id| NodeId::new(id).unwrap()),
                agent,
                message,
                state,
            })
    }

    fn log_record() -> impl Strategy<Value = LogRecord> {
        let line = (
            any::<String>(),
            of("\\PC{0,20}"),
            of(any::<String>()),
            of("[A-Za-z0-9+/]{0,20}"),
            any::<bool>(),
        )
            .prop_map(|(cursor, at, text, base64, partial)| LogRecord::Line {
                cursor,
                at,
                source: "stderr".to_owned(),
                text,
                base64,
                partial,
            });
        let gap =
            any::<[String; 3]>().prop_map(|[from, to, reason]| LogRecord::Gap { from, to, reason });
        let error = any::<String>().prop_map(|message| LogRecord::Error {
            error: Error::new(ErrorKind::Unavailable, message)
                .with_hint("Wait.")
                .to_report(),
        });
        prop_oneof![line, gap, error]
    }

    proptest! {
        #[test]
        fn what_is_followed_comes_back_from_one_line_of_json(event in event(), record in log_record()) {
            let json = serde_json::to_string(&event).unwrap();
            prop_assert!(!json.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
            let json = serde_json::to_string(&record).unwrap();
            prop_assert!(!json.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<LogRecord>(&json).unwrap(), record);
        }
    }

    #[test]
    fn a_request_reads_the_specifications_body_and_refuses_unknown_fields() {
        let body = r#"{"agent_id": "agent-prod-1", "port": 50051, "memory_limit_mb": 2048}"#;
        let request: SpawnRequest = serde_json::from_str(body).unwrap();
        assert_eq!(request.agent_id.as_deref(), Some("agent-prod-1"));
        assert_eq!(request.settings.port, Some(50051));
        assert_eq!(request.settings.memory_limit_mb, Some(2048));
        assert!(serde_json::from_str::<SpawnRequest>(r#"{"memory": 1}"#).is_err());
        assert!(serde_json::from_str::<UpdateRequest>(r#"{"node_id": "a"}"#).is_err());
    }

    #[test]
    fn a_created_tokens_value_is_in_its_json_and_not_in_its_debug_text() {
        let created: CreatedToken = serde_json::from_str(
            r#"{"id": "t1", "role": "agent", "created_at": "2026-01-01T00:00:00Z", "value": "t1.s"}"#,
        )
        .unwrap();
        assert_eq!(created.token.role, Role::Agent);
        assert!(!format!("{created:?}").contains("t1.s"));
        assert!(serde_json::to_string(&created).unwrap().contains("t1.s"));
    }
}
