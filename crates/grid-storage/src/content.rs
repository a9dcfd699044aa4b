//! Content files: the bodies that are too large for the index.
//!
//! A content file is the body, then one CRC-32 per [`CHUNK_BYTES`] of it (little-endian). The
//! checksum of that trailer is in the object's row, so that any range can be verified by
//! reading only the trailer and the chunks it touches.
//!
//! A file is named by a number that is never used twice while the store is open. It exists for
//! readers only once a committed row names it; one that no row names is an orphan, and is
//! removed at the next open.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::fs::FallocateFlags;

use crate::error::Error;

/// How much of a body one checksum covers, and one read brings into memory: 128 KiB. A trailer
/// is then 32 KiB for each GiB.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;

/// After this much is written, it is pushed to the disk, so that the last sync of a large body
/// has little left to do and does not hold up everyone else's.
const WRITEBACK_BYTES: u64 = 32 * 1024 * 1024;

/// The directory of the content files.
#[derive(Debug)]
pub(crate) struct ContentDir {
    path: PathBuf,
    /// Kept open to sync the directory's entries.
    handle: File,
}

/// What a row needs to know of a content file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentInfo {
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) crc: u32,
    pub(crate) trailer_crc: u32,
}

impl ContentDir {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            handle: File::open(path)?,
        })
    }

    pub(crate) fn path_of(&self, id: u64) -> PathBuf {
        self.path.join(format!("{id:016x}"))
    }

    /// Begins a content file. `expected` bytes of disk are reserved now, where the file system
    /// can, so that a body that does not fit is refused before it is sent.
    pub(crate) fn create(
        self: &Arc<Self>,
        id: u64,
        expected: Option<u64>,
    ) -> Result<ContentWriter, Error> {
        let path = self.path_of(id);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::io("create a content file", source))?;
        let writer = ContentWriter {
            pending: PendingContent {
                id,
                dir: Arc::clone(self),
                keep: false,
            },
            file,
            len: 0,
            since_sync: 0,
            chunk: crc32fast::Hasher::new(),
            chunk_len: 0,
            whole: crc32fast::Hasher::new(),
            trailer: Vec::new(),
        };
        if let Some(len) = expected.filter(|len| *len > 0) {
            let total = len + trailer_len(len);
            match rustix::fs::fallocate(&writer.file, FallocateFlags::KEEP_SIZE, 0, total) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(errno) => {
                    return Err(Error::io("reserve disk for a content file", errno.into()));
                }
            }
        }
        Ok(writer)
    }

    /// Opens a content file and verifies its length and its trailer.
    ///
    /// The outer error is the system's (`NotFound` when the object was replaced meanwhile).
    pub(crate) fn reader(&self, info: ContentInfo) -> io::Result<Result<ContentReader, Error>> {
        let file = File::open(self.path_of(info.id))?;
        let expected = info.size + trailer_len(info.size);
        let found = file.metadata()?.len();
        if found != expected {
            return Ok(Err(Error::corrupt(format!(
                "content file {:016x} has {found} bytes where {expected} were stored",
                info.id
            ))));
        }
        let mut trailer =
            vec![0; usize::try_from(trailer_len(info.size)).map_err(io::Error::other)?];
        file.read_exact_at(&mut trailer, info.size)?;
        if crc32fast::hash(&trailer) != info.trailer_crc {
            return Ok(Err(Error::corrupt(format!(
                "the checksums at the end of content file {:016x} changed",
                info.id
            ))));
        }
        Ok(Ok(ContentReader {
            file,
            info,
            trailer,
        }))
    }

    /// Whether `len` more bytes leave at least `min_free` bytes of the disk free.
    pub(crate) fn check_room(&self, len: u64, min_free: u64) -> Result<(), Error> {
        match self.free_bytes() {
            Ok(free) if free < min_free.saturating_add(len) => Err(Error::full()),
            // Where the file system does not say, the write itself will.
            _ => Ok(()),
        }
    }

    /// Bytes of the disk that this process may still use.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.handle)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The numbers of the files that are there. Names that are not ours are left alone.
    pub(crate) fn ids(&self) -> io::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if name.len() == 16
                && let Ok(id) = u64::from_str_radix(&name, 16)
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    pub(crate) fn remove(&self, id: u64) -> io::Result<()> {
        match std::fs::remove_file(self.path_of(id)) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Bytes of checksums after a body of `size` bytes.
fn trailer_len(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES as u64) * 4
}

/// A content file that no committed row names yet: removed when dropped, unless kept.
#[derive(Debug)]
pub(crate) struct PendingContent {
    pub(crate) id: u64,
    dir: Arc<ContentDir>,
    keep: bool,
}

impl PendingContent {
    /// The row that names the file is durable: the file stays.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for PendingContent {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.dir.remove(self.id)
        {
            // The next open sweeps it.
            tracing::warn!(id = self.id, %error, "cannot remove an unfinished content file");
        }
    }
}

/// Writes one content file. Dropped before [`ContentWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct ContentWriter {
    pending: PendingContent,
    file: File,
    len: u64,
    since_sync: u64,
    chunk: crc32fast::Hasher,
    chunk_len: usize,
    whole: crc32fast::Hasher,
    trailer: Vec<u8>,
}

impl ContentWriter {
    pub(crate) fn write(&mut self, mut data: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(data)
            .map_err(|source| Error::io("write a content file", source))?;
        self.len += data.len() as u64;
        self.since_sync += data.len() as u64;
        while !data.is_empty() {
            let take = data.len().min(CHUNK_BYTES - self.chunk_len);
            let (now, later) = data.split_at(take);
            self.chunk.update(now);
            self.chunk_len += take;
            data = later;
            if self.chunk_len == CHUNK_BYTES {
                self.end_chunk();
            }
        }
        if self.since_sync >= WRITEBACK_BYTES {
            self.since_sync = 0;
            self.file
                .sync_data()
                .map_err(|source| Error::io("sync a content file", source))?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        let chunk = std::mem::take(&mut self.chunk);
        self.whole.combine(&chunk);
        self.trailer
            .extend_from_slice(&chunk.finalize().to_le_bytes());
        self.chunk_len = 0;
    }

    /// Writes the trailer and makes the file and its name durable.
    pub(crate) fn finish(mut self) -> Result<(ContentInfo, PendingContent), Error> {
        if self.chunk_len > 0 {
            self.end_chunk();
        }
        self.file
            .write_all(&self.trailer)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| self.pending.dir.handle.sync_all())
            .map_err(|source| Error::io("make a content file durable", source))?;
        let info = ContentInfo {
            id: self.pending.id,
            size: self.len,
            crc: self.whole.finalize(),
            trailer_crc: crc32fast::hash(&self.trailer),
        };
        Ok((info, self.pending))
    }
}

/// Reads one content file by chunks, each verified before it is handed out.
#[derive(Debug)]
pub(crate) struct ContentReader {
    file: File,
    info: ContentInfo,
    trailer: Vec<u8>,
}

impl ContentReader {
    /// The bytes from `offset` to the end of its chunk, or to `end` if that is nearer.
    pub(crate) fn read(&self, offset: u64, end: u64) -> Result<Bytes, Error> {
        let chunk_bytes = CHUNK_BYTES as u64;
        let index = offset / chunk_bytes;
        let start = index * chunk_bytes;
        let chunk_end = (start + chunk_bytes).min(self.info.size);
        let to_usize = |n: u64| {
            usize::try_from(n).map_err(|e| Error::io("address a chunk", io::Error::other(e)))
        };
        let mut chunk = BytesMut::zeroed(to_usize(chunk_end - start)?);
        self.file
            .read_exact_at(&mut chunk, start)
            .map_err(|source| Error::io("read a content file", source))?;
        let at = to_usize(index)? * 4;
        let stored = self
            .trailer
            .get(at..at + 4)
            .and_then(|crc| crc.try_into().ok())
            .map(u32::from_le_bytes);
        if stored != Some(crc32fast::hash(&chunk)) {
            return Err(Error::corrupt(format!(
                "bytes {start} to {chunk_end} of content file {:016x} changed after they were stored",
                self.info.id
            )));
        }
        let chunk = chunk.freeze();
        Ok(chunk.slice(to_usize(offset - start)?..to_usize(end.min(chunk_end) - start)?))
    }
}
