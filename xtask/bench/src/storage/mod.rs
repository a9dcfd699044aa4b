//! The built-in storage server, beside redis and plain files made as durable.

mod load;
mod redis;
pub(crate) mod server;
mod stream;

use std::cell::RefCell;
use std::path::Path;

use crate::bench::Bench;
use crate::groups::Group;
use crate::http::Connection;
use crate::report::Row;
use crate::stats::{Subject, timed};
use crate::{Result, durable_write};
use redis::Redis;
use server::Server;

const BYTES: usize = 1024;

/// The clients that work at once.
const CLIENTS: [usize; 3] = [1, 16, 64];

const WRITE: &str = "a file: write 1 KiB, fsync it and its directory";
const READ: &str = "a file: read 1 KiB";

/// PUT and GET, each object a new one.
pub(crate) const GROUP: Group = Group {
    name: "storage",
    about: "The server and redis are processes of their own with their files on one disk, asked over loopback by the same \
        loop, one request at a time on each connection; every object is a new one, durable when acknowledged, and \
        compared when read.",
    programs: &[redis::NAME],
    measure,
};

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let place = |name: &str| -> Result<_> {
        let place = dir.path().join(name);
        std::fs::create_dir(&place)?;
        Ok(place)
    };
    let server = Server::start(&dir.path().join("objects"))?;
    let connection = RefCell::new(Connection::open(server.address)?);
    let mut rows = bench.interleave(subjects(&connection, &place("files")?))?;
    let redis = match bench.program(redis::NAME) {
        Ok(program) => Ok(Redis::start(&program, &place("redis")?)?),
        Err(why) => Err(why),
    };
    let address = redis.as_ref().map(|it| it.address).map_err(Clone::clone);
    for count in CLIENTS {
        bench.step(&format!("{count} clients"));
        rows.extend(load::measure(bench, server.address, &address, count)?);
    }
    server.end()?;
    if let Ok(redis) = redis {
        redis.end()?;
    }
    bench.step("large objects");
    rows.extend(stream::measure(bench, dir.path())?);
    Ok(rows)
}

fn body(number: usize) -> Vec<u8> {
    vec![b'a' + (number % 26) as u8; BYTES]
}

fn subjects<'a>(connection: &'a RefCell<Connection>, files: &'a Path) -> Vec<Subject<'a>> {
    let (mut put, mut get, mut write, mut read) = (0, 0, 0, 0);
    vec![
        Subject::time(
            Row::time("grid-storage: PUT 1 KiB, acknowledged when durable").beside(WRITE),
            move || {
                let (path, body) = (format!("/v1/objects/{put}"), body(put));
                put += 1;
                timed(|| connection.borrow_mut().request("PUT", &path, &body)).map(|(took, _)| took)
            },
        ),
        Subject::time(Row::time(WRITE), move || {
            let (path, body) = (files.join(write.to_string()), body(write));
            write += 1;
            timed(|| durable_write(&path, &body)).map(|(took, ())| took)
        }),
        Subject::time(
            Row::time("grid-storage: GET 1 KiB").beside(READ),
            move || {
                let path = format!("/v1/objects/{get}");
                let (took, found) = timed(|| connection.borrow_mut().request("GET", &path, b""))?;
                check(&found, &body(get))?;
                get += 1;
                Ok(took)
            },
        ),
        Subject::time(Row::time(READ), move || {
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
