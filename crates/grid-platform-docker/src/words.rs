//! The states that engines of Docker's API have and Docker has not, in Docker's words.
//!
//! Podman lets its own words for a container's state through (`stopped` until it has cleaned up behind one that ended,
//! `initialized` before a start), which a client of Docker's API cannot read: of a list, no container at all.

use std::future::Future;

use bollard::errors::Error as Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An answer about containers, read again when a state in it is none of Docker's. What Docker answers is read once.
pub(crate) async fn docker_words<T: DeserializeOwned>(
    call: impl Future<Output = Result<T, Client>>,
) -> Result<T, Client> {
    match call.await {
        Err(Client::JsonDataError {
            message,
            contents,
            column,
        }) => read_again(&contents).ok_or(Client::JsonDataError {
            message,
            contents,
            column,
        }),
        answer => answer,
    }
}

fn read_again<T: DeserializeOwned>(contents: &str) -> Option<T> {
    let mut answer: Value = serde_json::from_str(contents).ok()?;
    match &mut answer {
        Value::Array(listed) => listed.iter_mut().for_each(|it| rename(it, "/State")),
        inspected => rename(inspected, "/State/Status"),
    }
    serde_json::from_value(answer).ok()
}

fn rename(container: &mut Value, at: &str) {
    let Some(state) = container.pointer_mut(at) else {
        return;
    };
    let word = match state.as_str() {
        Some("stopped") => "exited",
        Some("initialized" | "configured") => "created",
        _ => return,
    };
    *state = word.into();
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use bollard::models::{
        ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
        ContainerSummaryStateEnum as Listed,
    };

    use super::*;

    fn refused(contents: &str) -> Client {
        Client::JsonDataError {
            message: "unknown variant".to_owned(),
            contents: contents.to_owned(),
            column: 1,
        }
    }

    #[tokio::test]
    async fn other_states_are_read_as_dockers() {
        let list = r#"[{"Id":"a","State":"stopped"},{"Id":"b","State":"running"},{"Id":"c","State":"initialized"}]"#;
        let call = ready(Err(refused(list)));
        let read: Vec<ContainerSummary> = docker_words(call).await.unwrap();
        let states: Vec<_> = read.iter().map(|it| it.state.unwrap()).collect();
        assert_eq!(states, [Listed::EXITED, Listed::RUNNING, Listed::CREATED]);
        let call = ready(Err(refused(r#"{"State":{"Status":"stopped"}}"#)));
        let read: ContainerInspectResponse = docker_words(call).await.unwrap();
        assert_eq!(read.state.unwrap().status, Some(Status::EXITED));
    }

    #[tokio::test]
    async fn what_nobody_can_read_is_an_error_as_it_was() {
        for contents in [r#"[{"State":"lost"}]"#, "[]]", r#"{"State":"stopped"}"#] {
            let call = ready(Err(refused(contents)));
            let read = docker_words::<Vec<ContainerSummary>>(call).await;
            let error = read.unwrap_err().to_string();
            assert_eq!(error, refused(contents).to_string());
        }
    }
}
