//! supervisord, asked over its own socket: XML-RPC on a connection that stays open, which spares it the start of
//! `supervisorctl`.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::manager::{self, Manager};
use crate::Result;
use crate::bench::Bench;
use crate::http::Connection;
use crate::program::Program;
use crate::report::Row;

/// By which `cargo xtask` knows it.
pub(super) const NAME: &str = "supervisord";

/// Its rows.
pub(super) fn rows() -> [Row; 4] {
    manager::rows(
        NAME,
        "startsecs=0, XML-RPC",
        ["startProcess", "stopProcess"],
    )
}

/// A running supervisord with one program.
pub(super) struct Supervisord {
    child: Child,
    connection: RefCell<Connection<UnixStream>>,
}

impl Supervisord {
    /// Starts one, or says why there is none.
    pub(super) fn start(
        bench: &Bench,
        dir: &Path,
        program: &Program,
    ) -> Result<std::result::Result<Self, String>> {
        let path = match bench.program(NAME) {
            Ok(path) => path,
            Err(why) => return Ok(Err(why)),
        };
        let dir = dir.join("supervisord");
        std::fs::create_dir(&dir)?;
        let (at, command) = (dir.display(), program.path().display());
        let text = format!(
            "[unix_http_server]\nfile={at}/socket\n\
             [supervisord]\nnodaemon=true\nlogfile={at}/log\npidfile={at}/pid\nchildlogdir={at}\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
             [program:node]\ncommand={command} {}\nautostart=false\nautorestart=false\nstartsecs=0\n",
            program.arg()
        );
        let file = dir.join("conf");
        std::fs::write(&file, text)?;
        let child = Command::new(path)
            .arg("--configuration")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let socket = dir.join("socket");
        let until = Instant::now() + Duration::from_secs(20);
        // It says nowhere that it listens.
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        Ok(Ok(Self {
            child,
            connection: RefCell::new(Connection::new(stream)),
        }))
    }

    fn call(&self, method: &str) -> Result<()> {
        let call = format!(
            "<?xml version='1.0'?><methodCall><methodName>supervisor.{method}</methodName><params>\
             <param><value><string>node</string></value></param>\
             <param><value><boolean>1</boolean></value></param></params></methodCall>"
        );
        let mut connection = self.connection.borrow_mut();
        let answer = connection.request("POST", "/RPC2", call.as_bytes())?;
        let answer = String::from_utf8_lossy(&answer);
        if answer.contains("<boolean>1</boolean>") {
            return Ok(());
        }
        Err(format!("supervisord answered {method} by {answer}").into())
    }
}

impl Manager for Supervisord {
    fn start(&self) -> Result<()> {
        self.call("startProcess")
    }

    fn stop(&self) -> Result<()> {
        self.call("stopProcess")
    }

    /// A program that is stopped is one that was never started.
    fn forget(&self) -> Result<()> {
        Ok(())
    }
}

impl Drop for Supervisord {
    fn drop(&mut self) {
        // Asked to end, it ends what it started first.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}
