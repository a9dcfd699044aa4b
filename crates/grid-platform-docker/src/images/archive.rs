//! Loading images from a file, for machines without a registry.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bollard::query_parameters::ImportImageOptions;
use bytes::Bytes;
use futures::{Stream, stream};
use grid_platform_api::{Error, ErrorKind, Progress, Result};
use tokio::{fs::File, io::AsyncReadExt};

use super::progress::Teller;
use crate::{
    engine::Engine,
    error::{Fault, error},
};

/// How long the engine may say nothing and read nothing while it loads: a layer of some GiB takes its disk a while.
const SILENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_secs(1);
/// Bytes that are read and sent at once.
const PIECE: usize = 64 * 1024;
/// Names of loaded images that are told; an archive may hold any number.
const NAMES: usize = 20;

/// Loads all images of the file; gives the names that the engine says they have.
///
/// # Errors
/// `InvalidConfig` for a file that cannot be read or is none; what keeps the engine from answering.
pub(super) async fn load(
    engine: &Engine,
    path: &Path,
    reference: &str,
    teller: &Teller<'_>,
) -> Result<Vec<String>> {
    let unreadable = |e: io::Error| unusable(path, "cannot be read").with_source(e);
    let file = File::open(path).await.map_err(unreadable)?;
    let about = file.metadata().await.map_err(unreadable)?;
    if !about.is_file() {
        return Err(unusable(path, "is no file"));
    }
    tracing::info!(image = reference, archive = %path.display(), "loading images");
    let sent = Arc::new(AtomicU64::new(0));
    let body = bollard::body_try_stream(pieces(file, Arc::clone(&sent)));
    let options = ImportImageOptions {
        quiet: true,
        ..ImportImageOptions::default()
    };
    let mut messages = engine.docker.import_image(options, body, None);
    let (mut names, mut heard, mut before) = (Vec::new(), Instant::now(), 0);
    loop {
        let done = sent.load(Ordering::Relaxed);
        if done != before {
            (heard, before) = (Instant::now(), done);
        }
        teller.tell(|| Progress {
            message: format!("loading the image `{reference}` from its archive"),
            bytes_done: done,
            bytes: Some(about.len()),
            ..Progress::default()
        });
        match engine.next(LOOK, &mut messages).await {
            Ok(Some(message)) => {
                heard = Instant::now();
                let text = message.stream.unwrap_or_default();
                let loaded = text.lines().filter_map(|line| {
                    let name = line.strip_prefix("Loaded image")?;
                    Some(
                        name.trim_start_matches(" ID")
                            .trim_start_matches(':')
                            .trim()
                            .to_owned(),
                    )
                });
                names.extend(loaded.take(NAMES - names.len().min(NAMES)));
            }
            Ok(None) => return Ok(names),
            Err(Fault::Silent(_)) if heard.elapsed() < SILENCE => {}
            Err(Fault::Silent(_)) => {
                return Err(Fault::Silent(SILENCE).into_error("load images"));
            }
            Err(Fault::Refused { message, .. }) if message.contains("no space left on device") => {
                return Err(Fault::Refused {
                    status: 500,
                    message,
                }
                .into_error("load images"));
            }
            Err(Fault::Refused { message, .. }) => {
                return Err(unusable(
                    path,
                    &format!("is refused by the engine: {message}"),
                ));
            }
            Err(fault) => return Err(fault.into_error("load images")),
        }
    }
}

/// The file piece by piece, counting what was taken.
fn pieces(file: File, sent: Arc<AtomicU64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold((file, sent), async |(mut file, sent)| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Ok(None);
        }
        piece.truncate(read);
        sent.fetch_add(read as u64, Ordering::Relaxed);
        Ok(Some((Bytes::from(piece), (file, sent))))
    })
}

fn unusable(path: &Path, why: &str) -> Error {
    error(
        ErrorKind::InvalidConfig,
        format!("the image archive `{}` {why}", path.display()),
    )
    .with_hint("Make it by `docker save --output FILE IMAGE` and name it by `docker.image_archive`, or remove that setting.")
}
