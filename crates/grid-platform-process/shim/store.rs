//! The record on disk.

use crate::failure::{Failure, at, malformed};
use crate::fault;
use crate::shared::record::{self, FILE, Record};
use crate::shared::words::Stage;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// The record file and what it says.
pub(crate) struct Store {
    file: File,
    seq: u64,
    /// What the next `save` makes durable.
    pub(crate) record: Record,
}

impl Store {
    /// Opens the record, or makes it. Of a former shim's record the log's marks are kept; `kept` tells whether there was one.
    pub(crate) fn open() -> Result<(Store, bool), Failure> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(sys::O_NOFOLLOW)
            .open("record")
            .map_err(at(Stage::Record))?;
        let mut bytes = vec![0; FILE];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|it| !it.is_empty()) {
            match file
                .read_at(rest, filled as u64)
                .map_err(at(Stage::Record))?
            {
                0 => break,
                count => filled += count,
            }
        }
        if filled < FILE {
            // Blocks are there before they are needed: a full disk cannot keep an end from being recorded.
            file.write_all_at(&bytes, 0)
                .and_then(|()| file.sync_all())
                .map_err(at(Stage::Record))?;
            File::open(".")
                .and_then(|it| it.sync_all())
                .map_err(at(Stage::Record))?;
        }
        let old = record::read(&bytes);
        let kept = old.is_some();
        let (seq, old) = old.map_or_else(|| (0, Record::default()), |it| (it.seq, it.record));
        let shim_pid = std::process::id();
        let record = Record {
            boot_id: boot_id(),
            shim_pid,
            shim_start: crate::tree::start_time(shim_pid),
            log_low: old.log_low,
            log_base: old.log_base,
            ..Record::default()
        };
        Ok((Store { file, seq, record }, kept))
    }

    /// The number of the last durable record.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Makes the record durable in the older slot.
    pub(crate) fn save(&mut self) -> Result<(), Failure> {
        let seq = self.seq + 1;
        let (offset, slot) = self.record.encode(seq).ok_or(malformed(Stage::Record))?;
        let written: io::Result<()> = fault::point("shim-before-record")
            .and_then(|()| self.file.write_all_at(&slot, offset))
            .and_then(|()| self.file.sync_data())
            .and_then(|()| fault::point("shim-after-record"));
        written.map_err(at(Stage::Record))?;
        self.seq = seq;
        Ok(())
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}
