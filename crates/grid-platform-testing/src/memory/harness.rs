//! The suite's view of a simulated host.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use grid_platform_api::{NodeId, Platform, Program, SpawnedNode, async_trait};

use super::{Flaw, World};
use crate::{BadProgram, Boot, Failed, Fixture, Harness, LiveProcess, Outcome, PortHold, Survey};

/// Little enough for a case to overrun.
const LOG_BUDGET: u64 = 256 * 1024;

/// The harness of [`MemoryPlatform`](super::MemoryPlatform); with flaws, of a broken one.
#[derive(Default)]
pub struct MemoryHarness {
    flaw: Option<Flaw>,
}

impl MemoryHarness {
    /// Whole platforms.
    pub fn new() -> Self {
        Self::default()
    }

    /// Platforms that are broken in this way.
    pub fn broken(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw) }
    }
}

#[async_trait]
impl Harness for MemoryHarness {
    fn name(&self) -> &str {
        super::NAME
    }

    fn is_simulated(&self) -> bool {
        true
    }

    async fn survey(&self) -> Outcome<Survey> {
        let mut survey = Survey::new(World::new().open().capabilities());
        survey.log_budget = Some(LOG_BUDGET);
        survey.other_user = Some(("nobody".to_owned(), 65534));
        Ok(survey)
    }

    async fn fixture(&self) -> Outcome<Box<dyn Fixture>> {
        let world = World::new().log_budget(LOG_BUDGET);
        Ok(Box::new(MemoryFixture {
            world: match self.flaw {
                Some(flaw) => world.flaw(flaw),
                None => world,
            },
            paths: AtomicU32::new(1),
        }))
    }
}

struct MemoryFixture {
    world: World,
    paths: AtomicU32,
}

#[async_trait]
impl Fixture for MemoryFixture {
    async fn open(&self) -> Outcome<Arc<dyn Platform>> {
        Ok(Arc::new(self.world.open()))
    }

    async fn open_stranger(&self) -> Outcome<Arc<dyn Platform>> {
        Ok(Arc::new(self.world.open_as(1)))
    }

    fn probe(&self, actions: &[&str]) -> Outcome<Program> {
        Ok(Program::binary("memory:probe", actions.iter().copied()))
    }

    fn bad_program(&self, which: BadProgram) -> Outcome<Program> {
        let name = match which {
            BadProgram::Missing => "memory:missing",
            BadProgram::NotExecutable => "memory:not-executable",
            BadProgram::BadFormat => "memory:bad-format",
            BadProgram::NoImage => return Ok(Program::image("memory:missing", [""; 0])),
        };
        Ok(Program::binary(name, [""; 0]))
    }

    async fn census(&self, id: &NodeId) -> Outcome<Vec<LiveProcess>> {
        Ok(self.world.processes(id))
    }

    async fn boots(&self, id: &NodeId) -> Outcome<Vec<Boot>> {
        Ok(self.world.boots(id))
    }

    async fn ask(&self, node: &SpawnedNode, action: &str) -> Outcome<String> {
        self.world.ask(node, action).await
    }

    async fn occupy_port(&self) -> Outcome<PortHold> {
        Ok(self.world.kernel.occupy())
    }

    fn storage_path(&self) -> PathBuf {
        let number = self.paths.fetch_add(1, Ordering::Relaxed);
        PathBuf::from(format!("/simulated/data-{number}"))
    }

    async fn put_file(&self, path: &Path) -> Outcome {
        let (dir, name) = split(path)?;
        self.world.kernel.make_folder(dir);
        self.world
            .kernel
            .in_folder(dir, |folder| folder.files.insert(name, b"kept".to_vec()));
        Ok(())
    }

    async fn has_file(&self, path: &Path) -> Outcome<bool> {
        let (dir, name) = split(path)?;
        let folder = self.world.kernel.folder(dir);
        Ok(folder.is_some_and(|folder| folder.files.contains_key(&name)))
    }

    async fn clean_up(&self) -> Outcome {
        let left = self.world.kernel.all();
        for process in &left {
            self.world.kernel.sweep(process.pid);
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(Failed::new(format!("processes were left behind: {left:?}")))
        }
    }
}

fn split(path: &Path) -> Outcome<(&Path, String)> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => Ok((dir, name.to_string_lossy().into_owned())),
        _ => Err(Failed::new(format!(
            "`{}` is not a file's path",
            path.display()
        ))),
    }
}
