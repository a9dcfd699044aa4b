//! Questions that are answered once.

use std::sync::Arc;

use grid_platform_api::{DataPolicy, Error, ErrorKind, NodeId, Platform, PlatformExt, Result};
use grid_proto::{
    report_to_json,
    v1::{self, question::About},
};
use serde::Serialize;

use crate::reconcile::Reconciler;

/// The answer, or why there is none.
pub(super) async fn answer(
    question: v1::Question,
    platform: Arc<dyn Platform>,
    reconciler: Reconciler,
) -> v1::Answer {
    let result = match question.about {
        Some(About::Usage(about)) => usage(platform.as_ref(), &about.node_id).await,
        Some(About::Data(_)) => json(platform.list_data().await),
        Some(About::PurgeData(about)) => {
            json(purge_data(platform.as_ref(), &reconciler, &about.node_id).await)
        }
        Some(About::Probe(_)) => json(platform.probe().await),
        None => Err(Error::new(
            ErrorKind::Unsupported,
            "this agent does not know the question",
        )
        .with_hint("Update the agent to the master's version.")),
    };
    let (json, error_json) = match result {
        Ok(json) => (json, String::new()),
        Err(error) => (String::new(), report_to_json(&error.to_report())),
    };
    v1::Answer {
        request_id: question.request_id,
        json,
        error_json,
    }
}

fn json<T: Serialize>(result: Result<T>) -> Result<String> {
    serde_json::to_string(&result?)
        .map_err(|e| Error::new(ErrorKind::Internal, "an answer has no JSON form").with_source(e))
}

async fn usage(platform: &dyn Platform, node_id: &str) -> Result<String> {
    json(platform.get_usage(&NodeId::new(node_id)?).await)
}

/// Purges what a removed node left. A node that exists, or is wanted, keeps its data.
async fn purge_data(platform: &dyn Platform, reconciler: &Reconciler, id: &str) -> Result<()> {
    let id = NodeId::new(id)?;
    let wanted = reconciler.is_wanted(id.clone()).await?;
    if wanted || platform.find_node(&id).await?.is_some() {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("the data of `{id}` is in use: the node exists"),
        )
        .with_node(&id)
        .with_hint(format!(
            "Remove the node with its data by `grid rm {id} --purge`."
        )));
    }
    platform.remove_node(&id, DataPolicy::Purge).await
}
