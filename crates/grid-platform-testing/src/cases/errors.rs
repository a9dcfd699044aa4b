//! Errors, which are part of the product.

use grid_platform_api::{Error, ErrorKind, LogCursor, LogPosition};

use super::cases;
use crate::{Context, Outcome, fails};

cases! {
    errors_name_platform_operation_and_node []
    errors_speak_as_they_should []
    errors_say_whether_a_retry_can_help []
}

/// One error of each kind that a caller can bring about on every platform.
async fn errors(c: &Context) -> Outcome<Vec<(&'static str, Error)>> {
    let platform = c.platform();
    let unknown = c.id("unknown");
    let node = c.spawn(c.probe("n", &["note=one"])?).await?;
    let other = c.same(&node, &["note=two"])?.build()?;
    let nowhere = LogCursor::After(LogPosition::new("nowhere"));
    let mut relative = c.probe("relative", &[])?.build()?;
    relative.storage_path = Some("relative".into());
    let ends = c.probe("ends", &["exit=1"])?;
    let ends = ends
        .ready(grid_platform_api::ReadyMode::Alive {
            for_: crate::PATIENCE,
        })
        .build()?;
    Ok(vec![
        (
            "stop_node",
            fails(platform.stop_node(&unknown).await, ErrorKind::NotFound)?,
        ),
        (
            "get_node_status",
            fails(
                platform.get_node_status(&unknown).await,
                ErrorKind::NotFound,
            )?,
        ),
        (
            "get_logs",
            fails(platform.get_logs(&unknown, 1).await, ErrorKind::NotFound)?,
        ),
        (
            "follow_logs",
            fails(
                platform.follow_logs(&node.node_id, nowhere).await.map(drop),
                ErrorKind::InvalidConfig,
            )?,
        ),
        (
            "spawn_node",
            fails(platform.spawn_node(other).await, ErrorKind::Conflict)?,
        ),
        (
            "spawn_node",
            fails(
                platform.spawn_node(relative).await,
                ErrorKind::InvalidConfig,
            )?,
        ),
        (
            "spawn_node",
            fails(platform.spawn_node(ends).await, ErrorKind::SpawnFailed)?,
        ),
    ])
}

async fn errors_name_platform_operation_and_node(c: &Context) -> Outcome {
    let name = c.platform().name();
    for (operation, error) in errors(c).await? {
        assert_eq!(error.platform(), Some(name), "{error:?}");
        assert_eq!(error.operation(), Some(operation), "{error:?}");
        assert!(error.node().is_some(), "{error:?}");
    }
    Ok(())
}

async fn errors_speak_as_they_should(c: &Context) -> Outcome {
    for (operation, error) in errors(c).await? {
        let words = error.to_string();
        assert!(!words.ends_with('.'), "{operation}: a full stop: {words}");
        assert!(
            !words.contains('\n'),
            "{operation}: more than a line: {words}"
        );
        let first = words.chars().next();
        assert!(
            first.is_some_and(|c| !c.is_uppercase()),
            "{operation}: a capital: {words}"
        );
        let hint = error
            .hint()
            .ok_or_else(|| format!("{operation}: no hint: {error:?}"))?;
        assert!(
            hint.ends_with('.'),
            "{operation}: a hint is a sentence: {hint}"
        );
    }
    Ok(())
}

async fn errors_say_whether_a_retry_can_help(c: &Context) -> Outcome {
    for (operation, error) in errors(c).await? {
        assert!(
            !error.is_retryable(),
            "{operation}: the same call fails the same way: {error:?}"
        );
    }
    Ok(())
}
