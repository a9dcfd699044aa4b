//! `grid version`.

use crate::{args::Format, context::Context, error::Result, output};

pub(super) async fn run(context: &Context) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    // A master that is not there has no version; that is no fault of this command.
    let master = match context.client() {
        Ok(client) => client.version().await.ok(),
        Err(_) => None,
    };
    match context.format() {
        Format::Json => output::json(&serde_json::json!({"version": own, "master": master})),
        Format::Table => {
            let mut text = format!("grid {own}\n");
            if let Some(master) = master {
                text.push_str(&format!(
                    "master {} (grid {}, epoch {}, revision {})\n",
                    master.version, master.grid_id, master.epoch, master.revision
                ));
            }
            output::out(&text)
        }
    }
}
