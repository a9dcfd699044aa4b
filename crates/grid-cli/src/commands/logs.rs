//! `grid logs`.

use std::time::{Duration, SystemTime};

use grid_client::{Class, Client, Desired, Error as ClientError, LogQuery, LogRecord};
use grid_platform_api::NodeId;

use crate::{
    args::{Format, LogsArgs},
    context::{Context, node_id},
    error::{Error, Result},
    output,
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How a stream of records ended.
enum End {
    /// There is no more.
    Whole,
    /// It broke off and can be taken up again.
    Broken(ClientError),
}

pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<()> {
    let id = node_id(&args.id)?;
    let client = context.client()?;
    let mut cursor = first_cursor(args, SystemTime::now())?;
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    let mut begun = false;
    let mut replaced = false;
    loop {
        let before = cursor.clone();
        let end = match read(context, &client, &id, &mut cursor, args.follow).await {
            Ok(end) => end,
            // Before the first record a fault is the caller's to know; later it is a break in what was followed.
            Err(Stop::Log(error)) if begun && args.follow && passes(&error) => End::Broken(error),
            // Between two incarnations there is no log.
            Err(Stop::Log(error)) if replaced && error.class() == Class::NotFound => End::Whole,
            Err(Stop::Log(error)) => return Err(error.into()),
            Err(Stop::Output(error)) => return Err(error),
        };
        begun = true;
        match end {
            End::Whole if !args.follow || !lives(&client, &id).await? => return Ok(()),
            // An update makes the node anew, with a log of its own.
            End::Whole => {
                if !replaced || cursor != before {
                    let gap = LogRecord::Gap {
                        from: cursor.clone(),
                        to: "start".to_owned(),
                        reason: "the node was made anew, and its earlier log went with it"
                            .to_owned(),
                    };
                    write(context.format(), &gap)?;
                    (pause, replaced) = (FIRST_PAUSE, true);
                    "start".clone_into(&mut cursor);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            End::Broken(error) if !args.follow => return Err(error.into()),
            End::Broken(error) => {
                if cursor != before {
                    (pause, told) = (FIRST_PAUSE, false);
                }
                if !told {
                    output::note(&format!("note: {error}; going on when it is back"));
                    told = true;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// A fault of the log, or of our own output.
enum Stop {
    Log(ClientError),
    Output(Error),
}

/// Writes what comes until the stream ends; `cursor` moves behind what was written.
async fn read(
    context: &Context,
    client: &Client,
    id: &NodeId,
    cursor: &mut String,
    follow: bool,
) -> Result<End, Stop> {
    let query = LogQuery {
        cursor: Some(cursor.clone()),
        follow,
    };
    let mut records = client.logs(id, &query).await.map_err(Stop::Log)?;
    loop {
        let record = match records.next().await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(End::Whole),
            Err(error) if passes(&error) => return Ok(End::Broken(error)),
            Err(error) => return Err(Stop::Log(error)),
        };
        write(context.format(), &record).map_err(Stop::Output)?;
        match &record {
            LogRecord::Line { cursor: behind, .. } => cursor.clone_from(behind),
            LogRecord::Gap { to, .. } => *cursor = format!("after:{to}"),
            LogRecord::Error { error } => {
                let error = ClientError::from(error.clone());
                return if passes(&error) {
                    Ok(End::Broken(error))
                } else {
                    Err(Stop::Log(error))
                };
            }
        }
    }
}

/// Writes a line as its program wrote it, and a gap as a note; as JSON, either as a line of its own. How a log broke off
/// is told as every error is.
fn write(format: Format, record: &LogRecord) -> Result<()> {
    match (format, record) {
        (_, LogRecord::Error { .. }) => Ok(()),
        (Format::Json, _) => output::json_line(record),
        (Format::Table, LogRecord::Line { partial, .. }) => {
            let mut bytes = record.bytes().unwrap_or_default();
            if !partial {
                bytes.push(b'\n');
            }
            output::bytes(&bytes)
        }
        (Format::Table, LogRecord::Gap { from, to, reason }) => {
            output::note(&format!(
                "note: lines are gone from {from} to {to}: {reason}"
            ));
            Ok(())
        }
    }
}

/// Whether the node is there and stays. A master that is away does not end what is followed.
async fn lives(client: &Client, id: &NodeId) -> Result<bool> {
    match client.node(id).await {
        Ok(node) => Ok(node.desired != Desired::Removed),
        Err(error) if error.class() == Class::NotFound => Ok(false),
        Err(error) if passes(&error) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether it can be better later: the master or the agent is away.
fn passes(error: &ClientError) -> bool {
    error.is_retryable() || error.class() == Class::Unreachable
}

fn first_cursor(args: &LogsArgs, now: SystemTime) -> Result<String> {
    match (&args.since, args.lines) {
        (Some(since), _) => Ok(format!("since:{}", time(since, now)?)),
        (None, Some(lines)) => Ok(format!("tail:{lines}")),
        (None, None) => Ok("tail:100".to_owned()),
    }
}

/// A time as RFC 3339, from one, or from an age.
fn time(text: &str, now: SystemTime) -> Result<String> {
    let at = match humantime::parse_duration(text) {
        Ok(age) => now.checked_sub(age),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    match at {
        Some(at) => Ok(humantime::format_rfc3339_millis(at).to_string()),
        None => Err(Error::usage(format!("`{text}` is no time"))
            .with_hint("Write an age such as `5m`, or a time such as `2026-01-31T12:00:00Z`.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ages_are_understood() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(time(text, now).ok().as_deref(), expect, "{text}");
        };
        check("5m", Some("1970-01-01T00:55:00.000Z"));
        check("1h", Some("1970-01-01T00:00:00.000Z"));
        check("2026-01-31T12:00:00Z", Some("2026-01-31T12:00:00.000Z"));
        check("2026-01-31 12:00:00", Some("2026-01-31T12:00:00.000Z"));
        check("yesterday", None);
    }
}
