//! What the master tells, as people read it. Pure.

use grid_client::{Agent, AgentState, Data, Desired, Event, Node, Role, State, Token, Usage};
use grid_platform_api::Failure;

use crate::table::{Table, cell, labels, size};

/// The nodes as a table.
pub(crate) fn nodes(nodes: &[Node], wide: bool) -> String {
    if wide {
        let mut table = Table::new([
            "ID", "AGENT", "PLATFORM", "STATE", "HEALTH", "ENDPOINT", "PID", "RESTARTS", "STARTED",
            "DATA", "LABELS",
        ]);
        for node in nodes {
            table.row([
                node.id.to_string(),
                node.agent.clone(),
                cell(node.platform.as_ref()),
                state(node),
                health(node),
                cell(node.endpoint.as_ref()),
                cell(node.pid),
                node.restarts.to_string(),
                cell(node.started_at.as_ref()),
                cell(node.data_path.as_ref()),
                labels(&node.labels),
            ]);
        }
        return table.render();
    }
    let mut table = Table::new([
        "ID", "AGENT", "PLATFORM", "STATE", "HEALTH", "ENDPOINT", "PID", "RESTARTS",
    ]);
    for node in nodes {
        table.row([
            node.id.to_string(),
            node.agent.clone(),
            cell(node.platform.as_ref()),
            state(node),
            health(node),
            cell(node.endpoint.as_ref()),
            cell(node.pid),
            node.restarts.to_string(),
        ]);
    }
    table.render()
}

/// The state, and what is wanted instead where that is not under way by itself.
fn state(node: &Node) -> String {
    let state = node.state.as_str();
    match node.desired {
        Desired::Removed => format!("{state} (removing)"),
        Desired::Unmanaged => format!("{state} (unmanaged)"),
        Desired::Running | Desired::Stopped => state.to_owned(),
    }
}

/// The health of what runs; of what does not there is none.
fn health(node: &Node) -> String {
    match node.state {
        State::Running | State::Unknown => node.health.clone(),
        _ => String::new(),
    }
}

/// One node, a fact a line.
pub(crate) fn node(node: &Node, usage: Option<&Usage>) -> String {
    let mut facts = Facts::default();
    facts.add("id", Some(&node.id));
    facts.add("agent", Some(&node.agent));
    facts.add("platform", node.platform.as_ref());
    facts.add("state", Some(state(node)));
    facts.add("progress", node.progress.as_ref());
    facts.add("health", some_text(health(node)));
    facts.add("health message", node.health_message.as_ref());
    facts.add("endpoint", node.endpoint.as_ref());
    let ports = node.ports.iter().filter(|(name, _)| *name != "main");
    for (name, port) in ports {
        facts.add(&format!("port {name}"), Some(port));
    }
    facts.add("pid", node.pid);
    facts.add("restarts", Some(node.restarts));
    facts.add("image", node.image.as_ref());
    facts.add("data", node.data_path.as_ref());
    facts.add("labels", some_text(labels(&node.labels)));
    if let Some(usage) = usage {
        facts.add("memory", some_text(memory(usage)));
        facts.add("cpu time", usage.cpu_time_ms.map(seconds));
        facts.add("disk", usage.disk_bytes.map(size));
        facts.add("processes", usage.processes);
    }
    facts.add("created", node.created_at.as_ref());
    facts.add("started", node.started_at.as_ref());
    facts.add("finished", node.finished_at.as_ref());
    facts.add(
        "generation",
        Some(if node.generation == node.observed_generation {
            node.generation.to_string()
        } else {
            format!(
                "{} (the agent has acted on {})",
                node.generation, node.observed_generation
            )
        }),
    );
    facts.add("ended with", node.exit);
    if let Some(error) = &node.error {
        facts.add("error", Some(&error.message));
        facts.add("hint", error.hint.as_ref());
    }
    let mut text = facts.render();
    if let Some(failure) = &node.failure {
        text.push_str(&failed(failure));
    }
    text
}

fn failed(failure: &Failure) -> String {
    let mut text = format!("last failure: {} ({})\n", failure.message, failure.reason);
    for line in &failure.log_tail {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

/// What a node uses.
pub(crate) fn usage(usage: &Usage) -> String {
    let mut facts = Facts::default();
    facts.add("at", Some(&usage.at));
    facts.add("memory", some_text(memory(usage)));
    facts.add("cpu time", usage.cpu_time_ms.map(seconds));
    facts.add("disk", usage.disk_bytes.map(size));
    facts.add("processes", usage.processes);
    facts.render()
}

fn memory(usage: &Usage) -> String {
    match (usage.memory_bytes, usage.memory_limit_bytes) {
        (Some(used), Some(limit)) => format!("{} of {}", size(used), size(limit)),
        (Some(used), None) => size(used),
        _ => String::new(),
    }
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03} s", millis / 1000, millis % 1000)
}

/// The agents as a table.
pub(crate) fn agents(agents: &[Agent]) -> String {
    let mut table = Table::new([
        "ID",
        "STATE",
        "PLATFORM",
        "NODES",
        "MEMORY",
        "VERSION",
        "LAST SEEN",
        "LABELS",
    ]);
    for agent in agents {
        let state = match (agent.state, agent.cordoned) {
            (AgentState::Ready, false) => "ready",
            (AgentState::Ready, true) => "ready (cordoned)",
            (AgentState::Lost, false) => "lost",
            (AgentState::Lost, true) => "lost (cordoned)",
        };
        table.row([
            agent.id.clone(),
            state.to_owned(),
            agent.platform.clone(),
            match agent.max_storage_nodes {
                0 => agent.nodes.to_string(),
                max => format!("{}/{max}", agent.nodes),
            },
            match agent.memory_mb {
                0 => String::new(),
                mib => size(mib << 20),
            },
            agent.version.clone(),
            cell(agent.last_seen.as_ref()),
            labels(&agent.labels),
        ]);
    }
    let mut text = table.render();
    for agent in agents {
        if let Some(error) = &agent.error {
            text.push_str(&format!("\n{}: {}\n", agent.id, error.message));
            if let Some(hint) = &error.hint {
                text.push_str(&format!("  {hint}\n"));
            }
        }
    }
    text
}

/// Data as a table.
pub(crate) fn data(data: &[Data]) -> String {
    let mut table = Table::new(["NODE", "AGENT", "IN USE", "SIZE", "LOCATION"]);
    for item in data {
        table.row([
            item.node.to_string(),
            item.agent.clone(),
            if item.in_use { "yes" } else { "no" }.to_owned(),
            cell(item.bytes.map(size)),
            if item.created_by_platform {
                item.location.clone()
            } else {
                format!("{} (not made by the platform)", item.location)
            },
        ]);
    }
    table.render()
}

/// Tokens as a table.
pub(crate) fn tokens(tokens: &[Token]) -> String {
    let mut table = Table::new(["ID", "ROLE", "CREATED", "BOUND TO", "NOTE"]);
    for token in tokens {
        table.row([
            token.id.clone(),
            Role::as_str(token.role).to_owned(),
            token.created_at.clone(),
            cell(token.install_id.as_ref()),
            cell(token.note.as_ref()),
        ]);
    }
    table.render()
}

/// An event as a line.
pub(crate) fn event(event: &Event) -> String {
    let about = match (&event.node, &event.agent) {
        (Some(node), _) => format!(" {node}"),
        (None, Some(agent)) => format!(" {agent}"),
        (None, None) => String::new(),
    };
    let message = event.message.replace(|c: char| c.is_control(), " ");
    format!(
        "{} {:>5} {:<16}{about}: {message}\n",
        event.at, event.id, event.kind
    )
}

fn some_text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Names and values, aligned.
#[derive(Default)]
struct Facts(Vec<(String, String)>);

impl Facts {
    fn add<T: ToString>(&mut self, name: &str, value: Option<T>) {
        if let Some(value) = value {
            let text = value.to_string().replace(|c: char| c.is_control(), " ");
            self.0.push((name.to_owned(), text));
        }
    }

    fn render(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.0
            .iter()
            .map(|(name, value)| format!("{name:<width$}  {value}\n"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn some_nodes() -> Vec<Node> {
        serde_json::from_value(json!([
            {
                "id": "node-1", "agent": "agent-1", "platform": "process", "desired": "running", "state": "running",
                "health": "healthy", "endpoint": "127.0.0.1:20001", "ports": {"main": 20001, "peer": 20002}, "pid": 4711,
                "restarts": 2, "generation": 3, "observed_generation": 3, "data_path": "/data/node-1",
                "labels": {"tier": "hot", "zone": "a"}, "started_at": "2026-01-01T00:00:00Z",
            },
            {
                "id": "broken", "agent": "a-long-agent-name", "desired": "running", "state": "failed", "health": "starting",
                "restarts": 0, "generation": 2, "observed_generation": 2,
                "failure": {
                    "reason": "exited", "message": "the program ended with exit code 1", "exit": {"code": 1},
                    "log_tail": ["cannot read the disk", "giving up"],
                },
            },
            {
                "id": "leaving", "agent": "agent-1", "desired": "removed", "state": "stopping", "health": "unchecked",
                "restarts": 0, "generation": 2, "observed_generation": 1,
            },
        ]))
        .unwrap()
    }

    #[test]
    fn nodes_as_tables() {
        assert_snapshot!(nodes(&some_nodes(), false));
        assert_snapshot!(nodes(&some_nodes(), true));
        assert_snapshot!(nodes(&[], false));
    }

    #[test]
    fn a_node_as_facts() {
        let use_of_it: Usage = serde_json::from_value(json!({
            "at": "2026-01-01T00:00:00Z", "cpu_time_ms": 1234, "memory_bytes": 5_000_000, "memory_limit_bytes": 268_435_456,
            "disk_bytes": 42, "processes": 1,
        }))
        .unwrap();
        let all = some_nodes();
        assert_snapshot!(node(&all[0], Some(&use_of_it)));
        assert_snapshot!(node(&all[1], None));
        assert_snapshot!(usage(&use_of_it));
    }

    #[test]
    fn agents_data_tokens_and_events() {
        let some: Vec<Agent> = serde_json::from_value(json!([
            {
                "id": "agent-1", "state": "ready", "connected": true, "cordoned": true, "platform": "process",
                "version": "0.1.0", "nodes": 3, "max_storage_nodes": 8, "labels": {"zone": "a"}, "memory_mb": 24105,
                "cpu_millis": 2000, "install_id": "i", "last_seen": "2026-01-01T00:00:00Z",
            },
            {
                "id": "agent-2", "state": "lost", "cordoned": false, "platform": "process", "version": "0.1.0", "nodes": 0,
                "max_storage_nodes": 0, "labels": {}, "memory_mb": 0, "cpu_millis": 0, "install_id": "j",
                "error": {"kind": "conflict", "message": "it is of another grid", "hint": "Give it a state of its own."},
            },
        ]))
        .unwrap();
        assert_snapshot!(agents(&some));
        let some: Vec<Data> = serde_json::from_value(json!([
            {"node": "n1", "agent": "a", "location": "/data/n1", "in_use": true, "created_by_platform": true, "bytes": 1536},
            {"node": "n2", "agent": "a", "location": "/mine", "in_use": false, "created_by_platform": false},
        ]))
        .unwrap();
        assert_snapshot!(data(&some));
        let some: Vec<Token> = serde_json::from_value(json!([
            {"id": "t1", "role": "agent", "created_at": "2026-01-01T00:00:00Z", "install_id": "i", "note": "of rack 3"},
        ]))
        .unwrap();
        assert_snapshot!(tokens(&some));
        let some: Event = serde_json::from_value(json!({
            "id": 7, "at": "2026-01-01T00:00:00Z", "kind": "node.changed", "node": "n1", "agent": "a",
            "message": "the node `n1` is\nrunning",
        }))
        .unwrap();
        assert_snapshot!(event(&some));
    }
}
