//! Logs over restarts and pods.

use futures::StreamExt;
use grid_platform_api::{LogCursor, LogItem, LogPosition, LogStream, Platform, RestartMode};
use grid_platform_testing::{Failed, Outcome};
use tokio::time::timeout;

use crate::bed::stage::{PATIENCE, Stage};

/// What comes until this line has, a gap as its reason.
async fn until(log: &mut LogStream, last: &str) -> Outcome<(Vec<String>, LogPosition)> {
    let mut seen = Vec::new();
    let reading = async {
        while let Some(item) = log.next().await {
            match item? {
                LogItem::Line(line) => {
                    seen.push(line.text());
                    if line.text() == last {
                        return Ok(line.position);
                    }
                }
                LogItem::Gap { reason, .. } => seen.push(format!("gap: {reason}")),
            }
        }
        Err(Failed::new("the log ended"))
    };
    match timeout(PATIENCE, reading).await {
        Ok(position) => Ok((seen, position?)),
        Err(_) => Err(Failed::new(format!(
            "`{last}` does not come behind {seen:?}"
        ))),
    }
}

pub(crate) async fn a_log_goes_on_over_restarts_and_pods() -> Outcome {
    let stage = Stage::open().await?;
    let request = stage
        .probe("n", &["say=begun"])?
        .restart(RestartMode::Always)
        .build()?;
    let node = stage.platform.spawn_node(request.clone()).await?;
    let id = &node.node_id;
    let mut log = stage.platform.follow_logs(id, LogCursor::Start).await?;
    stage.ask(&node, "lines=1-50").await?;
    stage.end(&node, "exit=1").await?;
    let second = stage
        .wait(id, "the second run", |it| {
            it.state.is_running() && it.restarts == 1
        })
        .await?;
    stage.ask(&second, "say=again").await?;
    let mut expect = vec!["boot 1".to_owned(), "begun".to_owned()];
    expect.extend((1..=50).map(|it| format!("line {it}")));
    expect.extend(["boot 2", "begun", "again"].map(str::to_owned));
    let (seen, position) = until(&mut log, "again").await?;
    assert_eq!(seen, expect);
    // The log of the run before is asked for, too.
    assert_eq!(stage.platform.get_logs(id, 100).await?, expect);
    assert_eq!(stage.platform.get_logs(id, 4).await?, expect[51..]);

    stage.place.delete("pods", id, false)?;
    stage.wait(id, "the end", |it| it.state.is_ended()).await?;
    let third = stage.platform.spawn_node(request).await?;
    stage.ask(&third, "say=afresh").await?;
    let (seen, last) = until(&mut log, "afresh").await?;
    // How the second run ended may be the last that its pod's log has.
    let expect = ["boot 3", "begun", "afresh"];
    let (old, new) = seen.split_at(seen.len().saturating_sub(expect.len()));
    assert_eq!(new, expect);
    let gaps = old.iter().filter(|it| it.starts_with("gap: ")).count();
    assert_eq!(gaps, 1, "{old:?}");
    let is_known = |it: &&String| it.starts_with("gap: ") || **it == "signal 15";
    assert_eq!(old.iter().filter(is_known).count(), old.len(), "{old:?}");
    assert!(old.last().is_some_and(|it| it.starts_with("gap: ")));
    drop(log);

    // From a place in the pod that is gone: what there is now, behind a gap; from one in this pod: nothing twice.
    let mut log = stage
        .platform
        .follow_logs(id, LogCursor::After(position))
        .await?;
    let (seen, _) = until(&mut log, "afresh").await?;
    assert!(seen[0].starts_with("gap: "), "{seen:?}");
    assert_eq!(seen[1..], expect);
    let mut log = stage
        .platform
        .follow_logs(id, LogCursor::After(last))
        .await?;
    stage.ask(&third, "say=more").await?;
    let (seen, _) = until(&mut log, "more").await?;
    assert_eq!(seen, ["more"]);
    assert_eq!(
        stage.platform.get_logs(id, 100).await?,
        ["boot 3", "begun", "afresh", "more"]
    );
    Ok(())
}
