//! Health checks: asking once, and what answers come to.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use grid_platform_api::{Health, HealthCheck, HealthProbe};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

/// The first wait between two questions to a program that has not answered well yet; it doubles up to the interval.
const EAGER: Duration = Duration::from_millis(20);

/// The address at which this host reaches what is bound to `bind`.
pub fn reachable(bind: IpAddr) -> IpAddr {
    match bind {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// Turns answers into health.
pub struct Judge<'a> {
    check: &'a HealthCheck,
    since: Instant,
    /// Bad answers in a row.
    bad: u32,
    /// There was a good one.
    good: bool,
    eager: Duration,
    health: Health,
}

impl<'a> Judge<'a> {
    /// A judge of a program that runs since then.
    pub fn new(check: &'a HealthCheck, since: Instant) -> Self {
        Self {
            check,
            since,
            bad: 0,
            good: false,
            eager: EAGER,
            health: Health::Starting,
        }
    }

    /// The health after an answer, and how long to wait before the next question.
    pub fn hear(&mut self, answer: Result<(), String>, now: Instant) -> (Health, Duration) {
        let interval = self.check.interval;
        match answer {
            Ok(()) => {
                (self.bad, self.good) = (0, true);
                self.health = Health::Healthy;
                (Health::Healthy, interval)
            }
            Err(message) => {
                self.bad = self.bad.saturating_add(1);
                // A program that starts is asked more often than it was agreed: these answers count by the
                // time that they would have taken.
                let patience = interval.saturating_mul(self.check.threshold);
                let late = self.good || now.duration_since(self.since) >= patience;
                if late && self.bad >= self.check.threshold {
                    self.health = Health::Unhealthy { message };
                }
                let wait = if self.good {
                    interval
                } else {
                    self.eager.min(interval)
                };
                self.eager = self.eager.saturating_mul(2);
                (self.health.clone(), wait)
            }
        }
    }
}

/// Asks once.
///
/// # Errors
/// Why the answer is no good one, in words.
pub async fn ask(probe: &HealthProbe, address: SocketAddr) -> Result<(), String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|e| format!("cannot connect to {address}: {e}"))?;
    let HealthProbe::Http { path, .. } = probe else {
        return Ok(());
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: sutra-grid\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
    let failed = |e: std::io::Error| format!("no answer from {address}: {e}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    // The status line is all that counts.
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while !line.contains(&b'\n') && line.len() < 1024 {
        let read = stream.read(&mut buffer).await.map_err(failed)?;
        if read == 0 {
            break;
        }
        line.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    match status(&line) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("{path} was answered with status {code}")),
        None => Err(format!("{address} does not speak HTTP")),
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(line.split(|byte| *byte == b'\n').next()?).ok()?;
    let rest = text.strip_prefix("HTTP/1.")?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let check = |line: &str, expect: Option<u16>| {
            assert_eq!(status(line.as_bytes()), expect, "{line:?}");
        };
        check("HTTP/1.1 200 OK\r\nx: y", Some(200));
        check("HTTP/1.0 503\r\n", Some(503));
        check("SSH-2.0-OpenSSH\r\n", None);
        check("HTTP/1.1\r\n", None);
        check("", None);
    }

    #[test]
    fn one_good_answer_heals_and_the_threshold_makes_ill() {
        let check = HealthCheck {
            interval: Duration::from_secs(1),
            threshold: 3,
            ..HealthCheck::tcp()
        };
        let start = Instant::now();
        let mut judge = Judge::new(&check, start);
        let bad = || Err("refused".to_owned());
        let ill = Health::Unhealthy {
            message: "refused".into(),
        };
        // Eager questions do not make a starting program ill.
        for _ in 0..5 {
            assert_eq!(judge.hear(bad(), start).0, Health::Starting);
        }
        let late = start + Duration::from_secs(3);
        assert_eq!(
            judge.hear(bad(), late),
            (ill.clone(), Duration::from_millis(640))
        );
        assert_eq!(judge.hear(Ok(()), late).0, Health::Healthy);
        assert_eq!(judge.hear(bad(), late), (Health::Healthy, check.interval));
        assert_eq!(judge.hear(bad(), late).0, Health::Healthy);
        assert_eq!(judge.hear(bad(), late).0, ill);
    }
}
