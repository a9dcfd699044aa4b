//! What a start costs that does no more than it has to: the same durable writes, and a child.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::program::{Program, now};
use crate::report::Row;
use crate::stats::Subject;

/// Names of the rows.
pub(super) const BEGAN: &str =
    "bare: the same durable writes, then fork and exec: until the first instruction";
pub(super) const WRITTEN: &str =
    "bare: the same durable writes, fork and exec, and the record behind it";
pub(super) const STOP: &str = "bare: a child asked to end, and awaited";

/// As many bytes as an intent and a record have.
const INTENT: [u8; 900] = [b'i'; 900];
const SLOT: usize = 4096;

/// Where bare children have their files.
pub(super) struct Bare<'a> {
    dir: PathBuf,
    program: &'a Program,
}

impl<'a> Bare<'a> {
    pub(super) fn new(dir: &Path, program: &'a Program) -> Result<Self> {
        let dir = dir.join("bare");
        fs::create_dir(&dir)?;
        Ok(Self { dir, program })
    }

    /// Before the fork: a new directory with an intent in it, and a record that says that it starts. Behind it: the
    /// record again, that says that it runs.
    pub(super) fn start_durably(&'a self) -> Subject<'a> {
        let mut round = 0;
        Subject::times([Row::time(BEGAN), Row::time(WRITTEN)], move || {
            round += 1;
            let dir = self.dir.join(round.to_string());
            let begin = now();
            fs::create_dir(&dir)?;
            fs::write(dir.join("intent"), INTENT)?;
            let record = File::create(dir.join("record"))?;
            record.write_all_at(&[0; 2 * SLOT], 0)?;
            File::open(dir.join("intent"))?.sync_all()?;
            File::open(&dir)?.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
            record.write_all_at(&[1; SLOT], SLOT as u64)?;
            record.sync_data()?;
            let child = self.program.bare()?;
            record.write_all_at(&[2; SLOT], 0)?;
            record.sync_data()?;
            let written = now();
            let began = self.program.began()?;
            self.program.end_bare(child)?;
            fs::remove_dir_all(&dir)?;
            Ok([began - begin, written - begin])
        })
    }

    pub(super) fn start(&'a self) -> Subject<'a> {
        let row = Row::time("bare: fork and exec: until the first instruction");
        Subject::time(row, || {
            let begin = now();
            let child = self.program.bare()?;
            let began = self.program.began()?;
            self.program.end_bare(child)?;
            Ok(began - begin)
        })
    }

    pub(super) fn stop(&'a self) -> Subject<'a> {
        Subject::time(Row::time(STOP), || {
            let child = self.program.bare()?;
            self.program.began()?;
            let begin = now();
            self.program.end_bare(child)?;
            Ok(now() - begin)
        })
    }
}
