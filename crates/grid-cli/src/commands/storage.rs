//! `grid storage`: the built-in storage server.

use grid_storage::{Server, StorageConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::StorageArgs,
    context::Context,
    error::{Error, Result},
    parts,
};

pub(super) async fn run(context: &Context, args: &StorageArgs) -> Result<()> {
    parts::log_to_stderr(context);
    let mut config = StorageConfig::new(&args.data_path, args.listen);
    config.token_file = context.global.token_file.clone();
    let fault = |error: grid_storage::Error| {
        let mut converted = Error::failed(error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            converted = converted.with_source(source);
        }
        converted.with_hint(error.hint())
    };
    let listen = |kind| {
        signal(kind).map_err(|error| Error::failed("cannot listen to signals").with_source(&error))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Server::bind(config)
        .map_err(fault)?
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
        .map_err(fault)
}
