//! A large object, up and down, beside a copy of a file of that size.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::server::Server;
use crate::Result;
use crate::bench::Bench;
use crate::http::Connection;
use crate::report::{Row, Unit};
use crate::stats::timed;

const BLOCK: usize = 1 << 20;

const UP: &str = "grid-storage: 1 GiB up, durable";
const DOWN: &str = "grid-storage: 1 GiB down";
const COPIED: &str = "a file: 1 GiB copied by read and write, and fsynced";
const READ: &str = "a file: 1 GiB read";
const SMALL: &str = "grid-storage: memory at its most, after 64 MiB up and down";

/// Each block is another one: its number is everywhere in it.
fn fill(block: &mut [u8], number: u64) {
    for (word, at) in block.chunks_exact_mut(8).zip(0_u64..) {
        // An odd factor: no two words of an object are the same.
        let value = (number << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads a whole object and compares it with what was written.
fn verify(mut from: impl Read, blocks: u64) -> Result<()> {
    let mut found = vec![0; BLOCK];
    let mut expect = vec![0; BLOCK];
    for number in 0..blocks {
        from.read_exact(&mut found)?;
        fill(&mut expect, number);
        super::check(&found, &expect)?;
    }
    Ok(())
}

fn write(mut to: impl Write, blocks: u64) -> Result<()> {
    let mut block = vec![0; BLOCK];
    for number in 0..blocks {
        fill(&mut block, number);
        to.write_all(&block)?;
    }
    Ok(())
}

fn up_and_down(connection: &mut Connection, blocks: u64) -> Result<[f64; 2]> {
    let path = "/v1/objects/large";
    let bytes = blocks * BLOCK as u64;
    let (up, ()) = timed(|| connection.upload(path, bytes, |to| write(to, blocks)))?;
    let (down, ()) = timed(|| connection.download(path, bytes, |from| verify(from, blocks)))?;
    connection.request("DELETE", path, b"")?;
    Ok([up, down].map(|it| bytes as f64 / it.as_secs_f64()))
}

/// The same with files.
fn copied(dir: &Path, blocks: u64) -> Result<[f64; 2]> {
    let (source, copy) = (dir.join("source"), dir.join("copy"));
    if !source.exists() {
        write(File::create(&source)?, blocks)?;
    }
    let (up, ()) = timed(|| {
        let (mut from, mut to) = (File::open(&source)?, File::create(&copy)?);
        let mut block = vec![0; BLOCK];
        for _ in 0..blocks {
            from.read_exact(&mut block)?;
            to.write_all(&block)?;
        }
        Ok(to.sync_all()?)
    })?;
    let (down, ()) = timed(|| verify(File::open(&copy)?, blocks))?;
    std::fs::remove_file(&copy)?;
    let bytes = (blocks * BLOCK as u64) as f64;
    Ok([up, down].map(|it| bytes / it.as_secs_f64()))
}

/// A server of its own: what it has of memory is of this alone.
pub(crate) fn measure(bench: &Bench, dir: &Path) -> Result<Vec<Row>> {
    let (small, large) = (bench.sized(64, 1), bench.sized(1024, 4));
    let server = Server::start(&dir.join("large"))?;
    let mut connection = Connection::open(server.address)?;
    up_and_down(&mut connection, small)?;
    let small_peak = server.used()?.peak;
    let throughput = |name| Row::of(name, Unit::Throughput);
    let mut rows = [
        throughput(UP).beside(COPIED),
        throughput(DOWN).beside(READ),
        throughput(COPIED),
        throughput(READ),
    ];
    for _ in 0..bench.sized(5, 1) {
        let [up, down] = up_and_down(&mut connection, large)?;
        let [copied, read] = copied(dir, large)?;
        for (row, figure) in rows.iter_mut().zip([up, down, copied, read]) {
            row.add(figure);
        }
    }
    let peak = server.used()?.peak;
    server.end()?;
    let memory = |name| Row::of(name, Unit::Bytes);
    let mut rows = Vec::from(rows);
    rows.push(memory(SMALL).with(small_peak as f64));
    rows.push(
        memory("grid-storage: memory at its most, after 1 GiB up and down")
            .with(peak as f64)
            .beside(SMALL)
            .at_most_times(1.5),
    );
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_change_places_or_bits_are_seen() {
        let mut object = Vec::new();
        write(&mut object, 2).expect("memory can be written");
        verify(&object[..], 2).expect("it is what was written");
        let mut flipped = object.clone();
        flipped[BLOCK + 77] ^= 1;
        assert!(verify(&flipped[..], 2).is_err());
        object.rotate_left(BLOCK);
        assert!(verify(&object[..], 2).is_err());
    }
}
