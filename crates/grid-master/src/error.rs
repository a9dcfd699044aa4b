//! Errors as the HTTP API and the wire tell them.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use grid_client::ErrorBody;
use grid_platform_api::{Error, ErrorKind, ErrorReport};

/// An error and the HTTP status it is answered with.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) report: Box<ErrorReport>,
}

impl ApiError {
    /// An error whose status its kind does not tell.
    pub(crate) fn with_status(status: StatusCode, error: Error) -> Self {
        Self {
            status,
            report: Box::new(error.to_report()),
        }
    }
}

/// The status of an error of this kind.
fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidConfig => StatusCode::BAD_REQUEST,
        ErrorKind::NotAllowed | ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::LogsUnavailable => StatusCode::GONE,
        ErrorKind::Conflict
        | ErrorKind::OwnedByOther
        | ErrorKind::PortInUse
        | ErrorKind::Superseded => StatusCode::CONFLICT,
        ErrorKind::Unsupported | ErrorKind::SpawnFailed => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Unavailable
        | ErrorKind::Stale
        | ErrorKind::Unconfirmed
        | ErrorKind::StateLocked => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        error.to_report().into()
    }
}

impl From<ErrorReport> for ApiError {
    fn from(report: ErrorReport) -> Self {
        Self {
            status: status(report.kind),
            report: Box::new(report),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = %self.report.message, causes = ?self.report.causes, "a request failed");
        }
        let challenge = (self.status == StatusCode::UNAUTHORIZED)
            .then_some([(header::WWW_AUTHENTICATE, "Bearer realm=\"sutra-grid\"")]);
        let body = Json(ErrorBody {
            error: *self.report,
        });
        match challenge {
            Some(headers) => (self.status, headers, body).into_response(),
            None => (self.status, body).into_response(),
        }
    }
}

/// The error as a gRPC status: the primary line and the hint as its message, the whole report as JSON in its details.
pub(crate) fn to_status(code: tonic::Code, error: &ErrorReport) -> tonic::Status {
    let message = match &error.hint {
        Some(hint) => format!("{}\nhint: {hint}", error.message),
        None => error.message.clone(),
    };
    tonic::Status::with_details(code, message, grid_proto::report_to_json(error).into())
}
