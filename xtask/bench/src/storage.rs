//! The built-in storage server: 1 KiB objects over HTTP, beside plain files made as durable.

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use grid_storage::{Server, StorageConfig};
use tokio::sync::oneshot;

use crate::bench::Bench;
use crate::groups::Group;
use crate::http::Connection;
use crate::report::Row;
use crate::stats::{Subject, timed};
use crate::{Result, durable_write};

const BYTES: usize = 1024;

/// PUT and GET, each object a new one.
pub(crate) const GROUP: Group = Group {
    name: "storage",
    about: "Objects of 1 KiB over HTTP, one client, one connection.",
    programs: &[],
    measure,
};

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let files = dir.path().join("files");
    std::fs::create_dir(&files)?;
    let config = StorageConfig::new(dir.path().join("objects"), ([127, 0, 0, 1], 0).into());
    let server = Server::bind(config)?;
    let address = server.local_addr();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = runtime.spawn(server.run(async { stopped.await.unwrap_or_default() }));
    let mut connection = Connection::open(address)?;
    await_ready(&mut connection)?;
    let connection = RefCell::new(connection);
    let rows = bench.interleave(subjects(&connection, &files))?;
    // Only a server that drained and ended well was the one that was measured.
    let _ = stop.send(());
    runtime.block_on(serving)??;
    Ok(rows)
}

/// The address answers before the store is open.
fn await_ready(connection: &mut Connection) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = connection.request("GET", "/readyz", b"") {
        if Instant::now() > deadline {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn subjects<'a>(connection: &'a RefCell<Connection>, files: &'a Path) -> Vec<Subject<'a>> {
    let body = |round: usize| vec![b'a' + (round % 26) as u8; BYTES];
    let (mut put, mut get, mut write, mut read) = (0, 0, 0, 0);
    vec![
        Subject::time(
            Row::time("grid-storage: PUT 1 KiB, acknowledged when durable"),
            move || {
                let (path, body) = (format!("/v1/objects/{put}"), body(put));
                put += 1;
                timed(|| connection.borrow_mut().request("PUT", &path, &body)).map(|(took, _)| took)
            },
        ),
        Subject::time(
            Row::time("a file: write 1 KiB, fsync it and its directory"),
            move || {
                let (path, body) = (files.join(write.to_string()), body(write));
                write += 1;
                timed(|| durable_write(&path, &body)).map(|(took, ())| took)
            },
        ),
        Subject::time(Row::time("grid-storage: GET 1 KiB"), move || {
            let path = format!("/v1/objects/{get}");
            let (took, found) = timed(|| connection.borrow_mut().request("GET", &path, b""))?;
            check(&found, &body(get))?;
            get += 1;
            Ok(took)
        }),
        Subject::time(Row::time("a file: read 1 KiB"), move || {
            let (took, found) = timed(|| Ok(std::fs::read(files.join(read.to_string()))?))?;
            check(&found, &body(read))?;
            read += 1;
            Ok(took)
        }),
    ]
}

fn check(found: &[u8], expect: &[u8]) -> Result<()> {
    if found == expect {
        return Ok(());
    }
    Err("what was read is not what was written".into())
}
