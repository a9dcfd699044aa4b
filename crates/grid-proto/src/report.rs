//! Errors as JSON, read leniently.

use grid_platform_api::{ErrorKind, ErrorReport, FailureReason};
use serde_json::Value;

/// The report as JSON.
pub fn report_to_json(report: &ErrorReport) -> String {
    // A report has text keys only and no floating-point numbers, so that it always has a JSON form.
    serde_json::to_string(report).unwrap_or_default()
}

/// The report of `json`; `None` for an empty text, which is no error.
///
/// A kind or a reason of a newer version becomes `internal` or `platform_refused`, with a line among the causes that
/// names it; what cannot be read at all becomes an `internal` error that says so.
pub fn report_from_json(json: &str) -> Option<ErrorReport> {
    if json.is_empty() {
        return None;
    }
    let read = serde_json::from_str::<Value>(json).and_then(|mut value| {
        let newer = soften_kind(&mut value);
        if let Some(failure) = value.get_mut("failure") {
            soften_reason(failure);
        }
        let mut report: ErrorReport = serde_json::from_value(value)?;
        report
            .causes
            .extend(newer.map(|kind| format!("an error of the kind `{kind}` of a newer version")));
        Ok(report)
    });
    Some(read.unwrap_or_else(|error| unreadable(&error)))
}

fn unreadable(error: &serde_json::Error) -> ErrorReport {
    let message = "the other side's error cannot be read";
    let mut report = grid_platform_api::Error::new(ErrorKind::Internal, message).to_report();
    report.causes.push(error.to_string());
    report
}

/// Makes a kind that this version does not know `internal`, and gives its name.
fn soften_kind(report: &mut Value) -> Option<String> {
    let kind = report.get_mut("kind")?;
    if serde_json::from_value::<ErrorKind>(kind.clone()).is_ok() {
        return None;
    }
    let name = kind.as_str().map(str::to_owned);
    *kind = ErrorKind::Internal.as_str().into();
    name
}

/// Makes a failure's reason that this version does not know `platform_refused`; its message stays.
pub(crate) fn soften_reason(failure: &mut Value) {
    if let Some(reason) = failure.get_mut("reason")
        && serde_json::from_value::<FailureReason>(reason.clone()).is_err()
    {
        *reason = FailureReason::PlatformRefused.as_str().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_words_do_not_fail() {
        assert_eq!(report_from_json(""), None);
        let report = report_from_json(
            r#"{"kind":"melted","message":"it melted","newer":1,
                "failure":{"reason":"too_hot","message":"90 degrees"}}"#,
        )
        .unwrap();
        assert_eq!(report.kind, ErrorKind::Internal);
        assert_eq!(report.message, "it melted");
        assert_eq!(
            report.causes,
            ["an error of the kind `melted` of a newer version"]
        );
        let failure = report.failure.unwrap();
        assert_eq!(failure.reason, FailureReason::PlatformRefused);
        assert_eq!(failure.message, "90 degrees");
        assert_eq!(report_from_json("{").unwrap().kind, ErrorKind::Internal);
    }
}
