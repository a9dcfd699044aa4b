//! Whether what was asked of a node has come about. Pure.

use grid_client::{Desired, Node, State};
use grid_platform_api::{ErrorKind, ErrorReport, NodeId};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It runs, and is well if it is checked.
    Running,
    /// It does not run.
    Stopped,
    /// It is gone.
    Removed,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    Done,
    /// Why not yet.
    Waiting(String),
    /// It will not come about by itself.
    Failed(Box<ErrorReport>),
}

/// How far a node is; `None` is a node that is not listed.
pub(crate) fn judge(goal: Goal, id: &NodeId, node: Option<&Node>) -> Progress {
    let Some(node) = node else {
        return match goal {
            Goal::Removed => Progress::Done,
            Goal::Running | Goal::Stopped => failed(
                ErrorKind::NotFound,
                format!("there is no node `{id}` any more"),
                "`grid events` says what happened.",
            ),
        };
    };
    if let Some(overruled) = overruled(goal, node) {
        return overruled;
    }
    if node.observed_generation < node.generation {
        return Progress::Waiting(match (&node.progress, &node.error, node.state) {
            (Some(progress), ..) => progress.to_string(),
            (None, Some(error), _) => error.message.clone(),
            (None, None, State::Unknown) => "its agent is lost".to_owned(),
            (None, None, _) => "the agent has not acted yet".to_owned(),
        });
    }
    match (goal, node.state) {
        (Goal::Running, State::Running) => health(node),
        (Goal::Running, State::Failed) => Progress::Failed(Box::new(why(node))),
        (Goal::Stopped, State::Stopped | State::Failed) => Progress::Done,
        (_, State::Unknown) => Progress::Waiting("its agent is lost".to_owned()),
        (_, state) => Progress::Waiting(match (&node.progress, &node.error) {
            (Some(progress), _) => progress.to_string(),
            (None, Some(error)) => error.message.clone(),
            (None, None) => state.as_str().to_owned(),
        }),
    }
}

fn health(node: &Node) -> Progress {
    match node.health.as_str() {
        "healthy" | "unchecked" => Progress::Done,
        health => Progress::Waiting(
            node.health_message
                .as_ref()
                .map_or_else(|| health.to_owned(), |why| format!("{health}: {why}")),
        ),
    }
}

/// Somebody wished otherwise meanwhile, so the goal will not come about.
fn overruled(goal: Goal, node: &Node) -> Option<Progress> {
    let wish = match (goal, node.desired) {
        (Goal::Running, Desired::Stopped) => "stopped",
        (Goal::Stopped, Desired::Running) => "running",
        (Goal::Running | Goal::Stopped, Desired::Removed) => "removed",
        _ => return None,
    };
    Some(failed(
        ErrorKind::Conflict,
        format!("the node `{}` is wanted {wish} by now", node.id),
        "Somebody else changed it; `grid events` says when.",
    ))
}

/// Why a node is failed.
pub(crate) fn why(node: &Node) -> ErrorReport {
    if let Some(error) = &node.error {
        let mut error = error.clone();
        error.hint = error.hint.map(|hint| named(&hint, node));
        return error;
    }
    let (message, hint) = match (&node.failure, node.exit) {
        (Some(failure), _) => (
            format!("the node `{}` failed: {}", node.id, failure.message),
            failure.reason.hint(),
        ),
        (None, Some(exit)) => (format!("the node `{}` ended with {}", node.id, exit), None),
        (None, None) => (format!("the node `{}` failed", node.id), None),
    };
    ErrorReport {
        kind: ErrorKind::SpawnFailed,
        message,
        retryable: false,
        operation: None,
        platform: node.platform.clone(),
        node: Some(node.id.clone()),
        hint: Some(named(
            hint.unwrap_or(
                "`grid logs ID` shows what the program said; `grid start ID` tries again.",
            ),
            node,
        )),
        causes: Vec::new(),
        failure: node.failure.clone(),
    }
}

/// A hint about any node, made one about this.
fn named(hint: &str, node: &Node) -> String {
    hint.split(' ')
        .map(|word| match word.trim_end_matches('`') {
            "ID" => word.replace("ID", node.id.as_str()),
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn failed(kind: ErrorKind, message: String, hint: &str) -> Progress {
    Progress::Failed(Box::new(ErrorReport {
        kind,
        message,
        retryable: false,
        operation: None,
        platform: None,
        node: None,
        hint: Some(hint.to_owned()),
        causes: Vec::new(),
        failure: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: serde_json::Value) -> Node {
        let mut whole = serde_json::json!({
            "id": "n1", "agent": "a", "desired": "running", "state": "running", "health": "healthy",
            "restarts": 0, "generation": 2, "observed_generation": 2,
        });
        for (key, value) in json.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn progress_is_told_from_the_node() {
        let id = NodeId::new("n1").unwrap();
        let check = |goal: Goal, json: serde_json::Value, expect: &str| {
            let got = match judge(goal, &id, Some(&node(json.clone()))) {
                Progress::Done => "done".to_owned(),
                Progress::Waiting(why) => format!("waiting: {why}"),
                Progress::Failed(report) => format!("failed: {}", report.message),
            };
            assert_eq!(got, expect, "{goal:?} {json}");
        };
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        check(Goal::Running, json("{}"), "done");
        check(Goal::Running, json(r#"{"health":"unchecked"}"#), "done");
        check(
            Goal::Running,
            json(r#"{"health":"starting"}"#),
            "waiting: starting",
        );
        check(
            Goal::Running,
            json(r#"{"health":"unhealthy","health_message":"status 500"}"#),
            "waiting: unhealthy: status 500",
        );
        check(
            Goal::Running,
            json(r#"{"observed_generation":1}"#),
            "waiting: the agent has not acted yet",
        );
        check(
            Goal::Running,
            json(
                r#"{"observed_generation":1,"progress":{"message":"pulling the image `x`","parts":3,"parts_done":1,"bytes":2097152,"bytes_done":1048576}}"#,
            ),
            "waiting: pulling the image `x`: 1 of 3 parts, 1.0 of 2.0 MiB",
        );
        check(
            Goal::Running,
            json(r#"{"observed_generation":1,"state":"unknown"}"#),
            "waiting: its agent is lost",
        );
        check(
            Goal::Running,
            json(
                r#"{"state":"failed","failure":{"reason":"exited","message":"the program ended with exit code 1"}}"#,
            ),
            "failed: the node `n1` failed: the program ended with exit code 1",
        );
        check(
            Goal::Running,
            json(r#"{"state":"failed","observed_generation":1}"#),
            "waiting: the agent has not acted yet",
        );
        check(
            Goal::Running,
            json(r#"{"desired":"stopped"}"#),
            "failed: the node `n1` is wanted stopped by now",
        );
        check(
            Goal::Stopped,
            json(r#"{"desired":"stopped"}"#),
            "waiting: running",
        );
        check(
            Goal::Stopped,
            json(r#"{"desired":"stopped","state":"stopped"}"#),
            "done",
        );
        check(
            Goal::Removed,
            json(r#"{"desired":"removed","state":"stopping"}"#),
            "waiting: stopping",
        );
        check(
            Goal::Running,
            json(
                r#"{"state":"pending","error":{"kind":"unavailable","message":"the engine is away"}}"#,
            ),
            "waiting: the engine is away",
        );
    }

    #[test]
    fn an_absent_node_is_done_only_when_it_should_be_gone() {
        let id = NodeId::new("n1").unwrap();
        assert_eq!(judge(Goal::Removed, &id, None), Progress::Done);
        assert!(matches!(
            judge(Goal::Running, &id, None),
            Progress::Failed(_)
        ));
    }

    #[test]
    fn the_hint_names_the_node() {
        let report = why(&node(serde_json::json!({"state": "failed"})));
        assert_eq!(
            report.hint.as_deref(),
            Some("`grid logs n1` shows what the program said; `grid start n1` tries again.")
        );
    }
}
