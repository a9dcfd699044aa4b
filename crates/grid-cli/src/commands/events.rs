//! `grid events`.

use grid_client::{Class, Event};

use crate::{
    args::{EventsArgs, Format},
    context::Context,
    error::Result,
    output, render,
};

pub(super) async fn run(context: &Context, args: &EventsArgs) -> Result<()> {
    let client = context.client()?;
    let mut past = client.past_events().await?;
    if let Some(after) = args.after {
        past.retain(|event| event.id > after);
    }
    if !args.follow {
        return output::show(context.format(), &past, |events| {
            events.iter().map(render::event).collect()
        });
    }
    // Behind the last one that was listed, so that none is shown twice and none is missed.
    let after = past.last().map(|event| event.id).or(args.after);
    for event in &past {
        line(context.format(), event)?;
    }
    let mut events = client.events(after.or(Some(0))).await?;
    loop {
        match events.next().await {
            Ok(event) => line(context.format(), &event)?,
            Err(error) if error.class() == Class::Unreachable => {
                output::note(&format!("note: {error}; going on when it is back"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn line(format: Format, event: &Event) -> Result<()> {
    match format {
        Format::Table => output::out(&render::event(event)),
        Format::Json => output::json_line(event),
    }
}
