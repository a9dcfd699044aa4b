//! What handlers take from requests; every refusal is JSON.

use std::sync::Arc;

use axum::{
    body::to_bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use grid_client::Role;
use grid_platform_api::{Error, ErrorKind, NodeId};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use utoipa::PartialSchema;

use crate::{app::App, auth, error::ApiError, ops::Idempotency, store::row::TokenRow};

/// The largest body, in bytes: far above every request that makes sense.
pub(super) const MAX_BODY: usize = 1 << 20;

fn invalid(message: impl Into<String>, hint: &str) -> ApiError {
    Error::new(ErrorKind::InvalidConfig, message)
        .with_hint(hint)
        .into()
}

fn token(parts: &Parts, app: &App) -> Result<Arc<TokenRow>, ApiError> {
    let mut headers = parts.headers.get_all(header::AUTHORIZATION).iter();
    // Of two, whatever stands between could have checked the other one.
    let header = headers.next().filter(|_| headers.next().is_none());
    auth::authenticate(&app.grid, header.map(|v| v.as_bytes()))
}

/// The caller may change things.
pub(super) struct Admin(pub(super) Arc<TokenRow>);

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = token(parts, app)?;
        auth::allow(&token, &[Role::Admin])?;
        Ok(Self(token))
    }
}

/// The caller may look.
pub(super) struct Reader(pub(super) Arc<TokenRow>);

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let token = token(parts, app)?;
        auth::allow(&token, &[Role::Admin, Role::Read])?;
        Ok(Self(token))
    }
}

/// The node that the path names.
pub(super) struct Id(pub(super) NodeId);

impl FromRequestParts<Arc<App>> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Name(text) = Name::from_request_parts(parts, app).await?;
        Ok(Self(NodeId::new(text)?))
    }
}

/// The one part of the path that varies, as text.
pub(super) struct Name(pub(super) String);

impl FromRequestParts<Arc<App>> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, app).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(rejection) => Err(invalid(
                format!("the path cannot be read: {}", rejection.body_text()),
                "Write the id in the path as UTF-8, percent-encoded where it has to be.",
            )),
        }
    }
}

/// The query, strictly read.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, app).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                use std::error::Error as _;
                let cause = rejection
                    .source()
                    .map_or_else(|| rejection.body_text(), ToString::to_string);
                Err(invalid(
                    format!("the query cannot be read: {}", short(&cause)),
                    "`/openapi.json` lists the parameters of each path.",
                ))
            }
        }
    }
}

/// A JSON body, strictly read, whatever its content type says: `curl -d` sends another.
pub(super) struct Body<T> {
    pub(super) value: T,
    /// SHA-256 of the bytes.
    pub(super) digest: Vec<u8>,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let too_large = || {
            let error = Error::new(
                ErrorKind::InvalidConfig,
                format!("the body is larger than {MAX_BODY} bytes"),
            )
            .with_hint("Keep large values out of requests: put files on the agent's host.");
            ApiError::with_status(StatusCode::PAYLOAD_TOO_LARGE, error)
        };
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > MAX_BODY as u64) {
            return Err(too_large());
        }
        let limit = app.settings.limits.body;
        let read = tokio::time::timeout(limit, to_bytes(request.into_body(), MAX_BODY)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                let error = error.into_inner();
                if error.is::<LengthLimitError>() {
                    return Err(too_large());
                }
                // The connection broke, and nobody reads this; or what came is no body of HTTP.
                return Err(invalid(
                    format!("the body cannot be read: {error}"),
                    "Send the request again, with a right `Content-Length` or in whole chunks.",
                ));
            }
            Err(_) => {
                let error = Error::new(
                    ErrorKind::Timeout,
                    format!("the body did not arrive within {} s", limit.as_secs()),
                )
                .with_hint("Send the request again.");
                return Err(ApiError::with_status(StatusCode::REQUEST_TIMEOUT, error));
            }
        };
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "the body does not fit",
                _ => "the body is not JSON",
            };
            let hint = match unknown(&error.to_string()) {
                Some((name, Some(near))) => format!("Did you mean `{near}` by `{name}`?"),
                _ => "`/openapi.json` lists the fields of each body.".to_owned(),
            };
            let told = unquoted(&error.to_string());
            invalid(format!("{what}: {}", short(&told)), &hint)
        })?;
        Ok(Self {
            value,
            digest: Sha256::digest(&bytes).to_vec(),
        })
    }
}

/// A parser's words without a text that they quote: what stands in the wrong place may be a secret.
fn unquoted(text: &str) -> String {
    let Some((start, rest)) = text.split_once(": string \"") else {
        return text.to_owned();
    };
    // Whatever the text itself holds, its end is the last one.
    let end = rest.rsplit_once("\", ").map_or("", |(_, end)| end);
    format!("{start}: a string, {end}")
}

/// A parser's words without the middle of what they quote: a request may be long, and its refusal is a line.
fn short(text: &str) -> String {
    const START: usize = 160;
    const END: usize = 60;
    let length = text.chars().count();
    if length <= START + END {
        return text.to_owned();
    }
    let start = text.chars().take(START);
    let end = text.chars().skip(length - END);
    start.chain("...".chars()).chain(end).collect()
}

/// The field or value that serde's `text` calls unknown, and the one of the settings, or of those it lists, that is near
/// enough to be meant.
fn unknown(text: &str) -> Option<(&str, Option<String>)> {
    let rest = text
        .strip_prefix("unknown field `")
        .or_else(|| text.strip_prefix("unknown variant `"))?;
    let (name, rest) = rest.split_once('`')?;
    let listed: Vec<String> = rest
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    // A body whose settings are flattened into it is refused without a list.
    let known = if listed.is_empty() { fields() } else { listed };
    let near = known
        .into_iter()
        .map(|field| (strsim::jaro_winkler(name, &field), field))
        .filter(|(score, _)| *score >= 0.75)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, field)| field);
    Some((name, near))
}

/// The fields of a spawn request, by its description.
fn fields() -> Vec<String> {
    let mut fields = Vec::new();
    let schemas = [
        serde_json::to_value(grid_client::SpawnRequest::schema()),
        serde_json::to_value(grid_client::NodeSettings::schema()),
    ];
    let mut open: Vec<serde_json::Value> = schemas.into_iter().flatten().collect();
    while let Some(schema) = open.pop() {
        if let Some(properties) = schema["properties"].as_object() {
            fields.extend(properties.keys().cloned());
        }
        open.extend(schema["allOf"].as_array().into_iter().flatten().cloned());
    }
    fields
}

/// The `Idempotency-Key` of a request, if it has one.
pub(super) struct Key(Option<String>);

impl FromRequestParts<Arc<App>> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, ApiError> {
        let Some(header) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        match header.to_str() {
            // A tab may stand in a header, and is no part of a key.
            Ok(text) if (1..=255).contains(&text.len()) && !text.contains('\t') => {
                Ok(Self(Some(text.to_owned())))
            }
            _ => Err(invalid(
                "the `Idempotency-Key` is not 1 to 255 ASCII characters",
                "Send a random key, such as a UUID.",
            )),
        }
    }
}

impl Key {
    /// With the body it came with; keys of different tokens are different keys.
    pub(super) fn with(self, token: &TokenRow, digest: Vec<u8>) -> Option<Idempotency> {
        self.0.map(|key| Idempotency {
            key: format!("{}/{key}", token.id),
            body: digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_wrong_place_is_not_repeated() {
        let check = |body: &str, expect: &str| {
            let error = serde_json::from_str::<grid_client::SpawnRequest>(body).unwrap_err();
            assert_eq!(unquoted(&error.to_string()), expect, "{body}");
        };
        check(
            r#""hunter2""#,
            "invalid type: a string, expected struct SpawnRequest at line 1 column 9",
        );
        check(
            r#"{"memory_limit_mb": "hunter2\", expected "}"#,
            "invalid type: a string, expected u64 at line 1 column 43",
        );
        check(
            r#"{"memory_limit_mb": true}"#,
            "invalid type: boolean `true`, expected u64 at line 1 column 25",
        );
        check(
            r#"{"secrets": "hunter2"}"#,
            "the secrets are not texts by their names at line 1 column 22",
        );
    }
}
