//! Simulated programs: the probe, and a plain server for every other name.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use grid_platform_api::{Exit, LogSource, Place, SecretValue};
use tokio::{sync::mpsc, time::sleep};

use super::{
    kernel::{End, Kernel, Mail},
    log::LogFile,
};
use crate::{
    Boot,
    probe::{Action, boot_line, flood_line, flood_lines, giant_line, numbered_line, signal_line},
};

/// A program as it is executed: all that a real one would be given.
pub(crate) struct Image {
    /// What it does at its start; a plain server does nothing.
    pub(crate) actions: Vec<Action>,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) place: Place,
    pub(crate) secrets: BTreeMap<String, SecretValue>,
    pub(crate) user: u32,
    pub(crate) open_files: u64,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) log: Arc<LogFile>,
}

struct Running<'a> {
    kernel: &'a Kernel,
    pid: u32,
    image: Image,
    boot: u32,
    unhealthy: bool,
    linger: Duration,
    ignored: Vec<i32>,
    listening: bool,
}

/// Runs a program to its end.
pub(crate) async fn run(
    kernel: &Kernel,
    pid: u32,
    image: Image,
    mut inbox: mpsc::UnboundedReceiver<Mail>,
) -> End {
    let mut running = Running {
        kernel,
        pid,
        boot: 0,
        unhealthy: false,
        linger: Duration::ZERO,
        ignored: Vec::new(),
        listening: false,
        image,
    };
    match running.life(&mut inbox).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// What nothing returns.
enum Never {}

impl Running<'_> {
    async fn life(&mut self, inbox: &mut mpsc::UnboundedReceiver<Mail>) -> Result<Never, End> {
        self.record_boot()?;
        self.say(&boot_line(self.boot));
        let mut deaf = false;
        let mut skip = false;
        let actions = std::mem::take(&mut self.image.actions);
        for action in actions {
            if std::mem::take(&mut skip) {
                continue;
            }
            match action {
                Action::Deaf => deaf = true,
                Action::UpTo(last) => skip = self.boot > last,
                // Signals are followed while the script goes on, as the real probe does in a thread of its own.
                Action::Wait(ms) => {
                    let wait = sleep(Duration::from_millis(ms));
                    tokio::pin!(wait);
                    loop {
                        tokio::select! {
                            () = &mut wait => break,
                            mail = inbox.recv() => self.open(mail).await?,
                        }
                    }
                }
                action => {
                    if let Err(words) = self.perform(action)? {
                        self.say(&format!("grid-probe: {words}"));
                        return Err(ended(Exit::Code(97)));
                    }
                }
            }
        }
        if !deaf {
            self.listen()?;
        }
        loop {
            let mail = inbox.recv().await;
            self.open(mail).await?;
        }
    }

    /// Deals with one piece of mail; the error is the program's end.
    async fn open(&mut self, mail: Option<Mail>) -> Result<(), End> {
        match mail {
            Some(Mail::Signal(number)) => {
                self.say(&signal_line(number));
                if !self.ignored.contains(&number) {
                    sleep(self.linger).await;
                    return Err(ended(Exit::Code(0)));
                }
            }
            Some(Mail::Healthz(answer)) => {
                // Who asked may have given up.
                let _ = answer.send(!self.unhealthy);
            }
            Some(Mail::Do(text, answer)) => {
                let done = match Action::parse(&text) {
                    Ok(Action::Wait(ms)) => {
                        sleep(Duration::from_millis(ms)).await;
                        Ok(Ok("ok".to_owned()))
                    }
                    Ok(action) => self.perform(action),
                    Err(words) => Ok(Err(words)),
                };
                let end = done.as_ref().err().copied();
                let _ = answer.send(done.unwrap_or_else(|_| Ok("ok".to_owned())));
                if let Some(end) = end {
                    return Err(end);
                }
            }
            None => return Err(ended(Exit::Signal(9))),
        }
        Ok(())
    }

    /// Does an action and gives its answer; the outer error is the program's end.
    fn perform(&mut self, action: Action) -> Result<Result<String, String>, End> {
        match action {
            Action::Say(words) => self.say(&words),
            Action::Err(words) => self.image.log.write(LogSource::Stderr, words.as_bytes()),
            Action::Lines(from, to) => (from..=to).for_each(|n| self.say(&numbered_line(n))),
            Action::Flood(bytes) => {
                (1..=flood_lines(bytes)).for_each(|n| self.say(&flood_line(n)));
            }
            Action::Raw(bytes) => self.image.log.write(LogSource::Stdout, &bytes),
            Action::Giant(bytes) => self.image.log.write(LogSource::Stdout, &giant_line(bytes)),
            Action::Exit(code) => return Err(ended(Exit::Code(code & 0xff))),
            Action::Signal(number) => return Err(ended(Exit::Signal(number))),
            Action::Ignore(number) => self.ignored.push(number),
            Action::Linger(ms) => self.linger = Duration::from_millis(ms),
            Action::Orphan => self.kernel.start_orphan(self.pid),
            Action::Eat(mib) => {
                let has = self.kernel.eat(self.pid, (mib as u64) << 20);
                if self
                    .image
                    .memory_limit_bytes
                    .is_some_and(|limit| has > limit)
                {
                    return Err(End {
                        exit: Exit::Signal(9),
                        out_of_memory: true,
                    });
                }
            }
            Action::Burn(ms) => self.kernel.burn(self.pid, ms),
            Action::Put(key, value) => {
                self.in_data(|data| data.files.insert(key, value.into_bytes()));
            }
            Action::Get(key) => {
                let value = self.in_data(|data| data.files.get(&key).cloned()).flatten();
                return Ok(Ok(value.map_or_else(
                    || "absent".to_owned(),
                    |bytes| String::from_utf8_lossy(&bytes).into_owned(),
                )));
            }
            Action::Healthy(yes) => self.unhealthy = !yes,
            Action::Listen => self.listen()?,
            Action::Boot => return Ok(Ok(self.boot.to_string())),
            Action::Env => {
                let env = self.image.env.iter();
                return Ok(Ok(env.map(|(k, v)| format!("{k}={v}\n")).collect()));
            }
            Action::Argv => {
                let argv = self.image.argv.iter();
                return Ok(Ok(argv.map(|a| format!("{a}\n")).collect()));
            }
            Action::Fds => return Ok(Ok("0 /dev/null\n1 log\n2 log\n".to_owned())),
            Action::Cwd => return Ok(Ok(self.image.place.data_path.clone())),
            Action::Nofile => return Ok(Ok(self.image.open_files.to_string())),
            Action::Secret(name) => {
                let secret = self.image.secrets.get(&name).and_then(SecretValue::expose);
                return Ok(match secret {
                    Some(bytes) => Ok(format!("400 {}", String::from_utf8_lossy(bytes))),
                    None => Err("no such file".to_owned()),
                });
            }
            Action::Deaf | Action::UpTo(_) | Action::Wait(_) | Action::Count(_) => {
                return Ok(Err("only at the start".to_owned()));
            }
            Action::Note(_) => {}
        }
        Ok(Ok("ok".to_owned()))
    }

    fn listen(&mut self) -> Result<(), End> {
        if std::mem::replace(&mut self.listening, true) {
            return Ok(());
        }
        for port in self.image.place.ports.values() {
            if !self.kernel.bind(*port, self.pid) {
                self.say(&format!("grid-probe: cannot listen on {port}"));
                return Err(ended(Exit::Code(97)));
            }
        }
        Ok(())
    }

    fn record_boot(&mut self) -> Result<(), End> {
        let boot = Boot {
            number: 0,
            pid: self.pid,
            start_time: u64::from(self.pid),
            uid: self.image.user,
            at_ms: self.kernel.now_ms(),
            argv: self.image.argv.clone(),
            env_names: self.image.env.keys().cloned().collect(),
        };
        let number = self.in_data(|data| {
            let number = u32::try_from(data.boots.len()).unwrap_or(u32::MAX - 1) + 1;
            data.boots.push(Boot { number, ..boot });
            number
        });
        self.boot = number.ok_or(ended(Exit::Code(97)))?;
        Ok(())
    }

    fn in_data<T>(&self, change: impl FnOnce(&mut super::kernel::Folder) -> T) -> Option<T> {
        let path = PathBuf::from(&self.image.place.data_path);
        self.kernel.in_folder(&path, change)
    }

    fn say(&self, line: &str) {
        self.image.log.write(LogSource::Stdout, line.as_bytes());
    }
}

fn ended(exit: Exit) -> End {
    End {
        exit,
        out_of_memory: false,
    }
}
