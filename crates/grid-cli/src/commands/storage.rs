//! `grid storage`: the built-in storage server.

use grid_storage::{Server, StorageConfig};

use crate::{
    args::StorageArgs,
    context::Context,
    error::{Error, Result},
    parts,
};

pub(super) async fn run(context: &Context, args: &StorageArgs) -> Result<()> {
    parts::log_to_stderr(context);
    let mut config = StorageConfig::new(&args.data_path, args.listen);
    config.published = args.published;
    config.token_file = context.global.token_file.clone();
    let fault = |error: grid_storage::Error| {
        let mut converted = Error::failed(error.to_string());
        if let Some(source) = std::error::Error::source(&error) {
            converted = converted.with_source(source);
        }
        converted.with_hint(error.hint())
    };
    let shutdown = parts::asked_to_end()?;
    // Each connection takes one, and so does each large object on its way.
    grid_listen::raise_open_files();
    Server::bind(config)
        .map_err(fault)?
        .run(shutdown)
        .await
        .map_err(fault)
}
