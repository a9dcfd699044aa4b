//! pm2, asked by its own library in a process that stays connected to its daemon, which spares it the start of its command.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::manager::{self, Manager};
use crate::Result;
use crate::bench::Bench;
use crate::program::Program;
use crate::report::Row;

/// By which `cargo xtask` knows it.
pub(super) const NAME: &str = "pm2";

static SCRIPT: &str = include_str!("pm2.js");

/// Its rows.
pub(super) fn rows() -> [Row; 4] {
    manager::rows(NAME, "its library, connected", ["start", "stop"])
}

/// A process that speaks for it.
struct Speaker {
    child: Child,
    /// Closed, it ends all.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// A running pm2.
pub(super) struct Pm2(RefCell<Speaker>);

impl Pm2 {
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
        // The command is a link to `bin/pm2` of the package.
        let command = std::fs::canonicalize(path)?;
        let library = command.parent().and_then(Path::parent);
        let library = library.ok_or("`pm2` is in no package")?;
        let dir = dir.join("pm2");
        std::fs::create_dir(&dir)?;
        let script = dir.join("speak.js");
        std::fs::write(&script, SCRIPT)?;
        let mut child = Command::new("node")
            .arg(&script)
            .arg(library)
            .args([program.path().as_os_str(), program.arg().as_ref()])
            .env("HOME", &dir)
            .env("PM2_HOME", &dir)
            .env("PM2_KILL_SIGNAL", "SIGTERM")
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let words = child.stdin.take();
        let answers = child.stdout.take().ok_or("a child without an output")?;
        let speaker = Self(RefCell::new(Speaker {
            child,
            words,
            answers: BufReader::new(answers),
        }));
        speaker.0.borrow_mut().answer("connect")?;
        Ok(Ok(speaker))
    }

    fn say(&self, word: &str) -> Result<()> {
        let mut speaker = self.0.borrow_mut();
        let words = speaker.words.as_mut().ok_or("pm2 was ended")?;
        words.write_all(format!("{word}\n").as_bytes())?;
        speaker.answer(word)
    }
}

impl Speaker {
    fn answer(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        while self.answers.read_line(&mut line)? > 0 {
            match line.trim_end().strip_prefix("answer ") {
                Some("done") => return Ok(()),
                Some(other) => return Err(format!("pm2 answered {word} by `{other}`").into()),
                None => line.clear(),
            }
        }
        Err(format!("pm2 ended before it answered {word}").into())
    }
}

impl Manager for Pm2 {
    fn start(&self) -> Result<()> {
        self.say("start")
    }

    fn stop(&self) -> Result<()> {
        self.say("stop")
    }

    fn forget(&self) -> Result<()> {
        self.say("delete")
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        drop(self.words.take());
        // It ends the daemon first.
        let _ = self.child.wait();
    }
}
