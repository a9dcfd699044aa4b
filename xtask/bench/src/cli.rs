//! From a person's command to the program's first instruction: command, HTTP, master, agent, adapter.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Result;
use crate::bench::Bench;
use crate::cleared::Cleared;
use crate::grid::{Grid, adapter_dirs};
use crate::groups::Group;
use crate::http::Connection;
use crate::program::{Program, now};
use crate::report::Row;
use crate::stats::Subject;

/// A spawn, all the way.
pub(crate) const GROUP: Group = Group {
    name: "cli",
    about: "One spawn at a time through the real `grid` command, master and agent, all stores on this disk, and the same \
        request over an open HTTP connection; the program is static and reads the clock as its first act.",
    programs: &[],
    measure,
};

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let program = Program::install(dir.path())?;
    let command = bench.own_program("grid")?;
    let (master, agent) = (
        bench.own_program("grid-master")?,
        bench.own_program("grid-agent")?,
    );
    let cleared = Cleared::new(&adapter_dirs(dir.path()));
    let grid = Grid::start(dir.path(), &master, &agent, 0)?;
    let spawns = Spawns {
        grid: &grid,
        program: &program,
    };
    let began = "grid spawn: until the program's first instruction";
    let answered = "grid spawn: until the command has ended";
    let rows = bench.interleave(vec![
        spawns.by_command(
            &command,
            [
                Row::time(began).at_most(0.025),
                Row::time(answered).at_most(0.025),
            ],
        ),
        spawns.by_http([
            Row::time("POST /api/grid/spawn: until the program's first instruction")
                .beside(began)
                .at_most(0.025),
            Row::time("POST /api/grid/spawn: until it is answered").beside(answered),
        ]),
    ])?;
    grid.end()?;
    cleared.clear()?;
    Ok(rows)
}

struct Spawns<'a> {
    grid: &'a Grid,
    program: &'a Program,
}

impl<'a> Spawns<'a> {
    fn by_command(&'a self, command: &'a Path, rows: [Row; 2]) -> Subject<'a> {
        let mut round = 0;
        Subject::times(rows, move || {
            round += 1;
            let id = format!("command-{round}");
            let mut command = Command::new(command);
            command
                .args(["--master", &format!("http://{}", self.grid.http())])
                .arg("--token-file")
                .arg(self.grid.token_file())
                .args(["spawn", "--name", &id, "--binary"])
                .arg(self.program.path())
                .args(["--", self.program.arg()])
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            let asked = now();
            let status = command.status()?;
            let ended = now();
            if !status.success() {
                return Err(format!("`grid spawn` ended with {status}").into());
            }
            let began = self.program.began()?;
            self.remove(&id)?;
            Ok([began - asked, ended - asked])
        })
    }

    fn by_http(&'a self, rows: [Row; 2]) -> Subject<'a> {
        let mut round = 0;
        Subject::times(rows, move || {
            round += 1;
            let id = format!("http-{round}");
            let body = json!({
                "node_id": id, "binary": self.program.path(), "args": [self.program.arg()],
            });
            let body = body.to_string();
            let mut connection = self.connect()?;
            // The request before it opens the connection on the master's side too.
            connection.request("GET", "/readyz", b"")?;
            let asked = now();
            connection.request("POST", "/api/grid/spawn", body.as_bytes())?;
            let answered = now();
            let began = self.program.began()?;
            self.remove(&id)?;
            Ok([began - asked, answered - asked])
        })
    }

    fn connect(&self) -> Result<Connection> {
        Ok(Connection::open(self.grid.http())?.bearer(self.grid.token()))
    }

    /// Removes the node, and returns when nothing of it is left that the next round could wait for.
    fn remove(&self, id: &str) -> Result<()> {
        let mut connection = self.connect()?;
        let path = format!("/api/grid/nodes/{id}");
        connection.request("DELETE", &format!("{path}?purge=true"), b"")?;
        self.program.ended()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while connection.request("GET", &path, b"").is_ok() {
            if Instant::now() > deadline {
                return Err(format!("`{id}` is still there").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
