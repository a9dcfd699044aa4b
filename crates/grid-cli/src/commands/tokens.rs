//! `grid token create|ls|rm`.

use grid_client::CreateToken;

use crate::{
    args::{Format, TokenCommand},
    context::Context,
    error::Result,
    output, render,
};

pub(super) async fn run(context: &Context, command: &TokenCommand) -> Result<()> {
    let client = context.client()?;
    match command {
        TokenCommand::Create(args) => {
            let created = client
                .create_token(&CreateToken {
                    role: args.role.into(),
                    note: args.note.clone(),
                })
                .await?;
            match context.format() {
                Format::Json => output::json(&created),
                Format::Table => {
                    output::out(&format!("{}\n", created.value))?;
                    output::note(&format!(
                        "note: this value is shown this once; `grid token rm {}` takes it back.",
                        created.token.id
                    ));
                    Ok(())
                }
            }
        }
        TokenCommand::Ls => {
            let tokens = client.tokens().await?;
            output::list(
                context.format(),
                &tokens,
                "There are no tokens.",
                render::tokens,
            )
        }
        TokenCommand::Rm { id } => {
            client.delete_token(id).await?;
            match context.format() {
                Format::Json => output::json(&serde_json::json!({"removed": id})),
                Format::Table => output::out(&format!("removed {id}\n")),
            }
        }
    }
}
