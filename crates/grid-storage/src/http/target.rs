//! What a request's path and query name, apart from any server.

use crate::error::{Error, ErrorKind};
use crate::key::Key;

/// Objects on a page when the client does not say.
const DEFAULT_LIMIT: usize = 100;
/// The most objects on one page.
const MAX_LIMIT: usize = 1000;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
    /// `/metrics`
    Metrics,
    /// `/v1/objects`
    Objects,
    /// `/v1/objects/{key}`
    Object(Key),
}

/// What a listing asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListQuery {
    pub(crate) prefix: String,
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
}

/// Reads a path. `None` if it names nothing here.
pub(crate) fn parse_path(path: &str) -> Option<Result<Target, Error>> {
    Some(Ok(match path {
        "/healthz" => Target::Health,
        "/readyz" => Target::Ready,
        "/metrics" => Target::Metrics,
        "/v1/objects" => Target::Objects,
        _ => {
            let raw = path.strip_prefix("/v1/objects/")?;
            return Some(decode(raw, false).and_then(|key| Ok(Target::Object(Key::new(key)?))));
        }
    }))
}

/// Reads the query of a listing; unknown parameters are refused, so that a typing error does
/// not list everything.
pub(crate) fn parse_list(query: &str) -> Result<ListQuery, Error> {
    let mut list = ListQuery {
        prefix: String::new(),
        after: None,
        limit: DEFAULT_LIMIT,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value, true)?;
        match name {
            "prefix" => list.prefix = value,
            "after" => list.after = Some(value).filter(|after| !after.is_empty()),
            "limit" => {
                let limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_LIMIT).contains(limit));
                list.limit = limit.ok_or_else(|| {
                    invalid(
                        format!(
                            "`limit={}` is not a number from 1 to {MAX_LIMIT}",
                            value.escape_debug()
                        ),
                        "Ask for at most that many, and follow `next` with `after` for more.",
                    )
                })?;
            }
            other => {
                return Err(invalid(
                    format!("unknown query parameter `{}`", other.escape_debug()),
                    "Use `prefix`, `limit` and `after`.",
                ));
            }
        }
    }
    Ok(list)
}

/// Undoes percent-encoding; `plus` also turns `+` into a space, as forms write it.
fn decode(text: &str, plus: bool) -> Result<String, Error> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        out.push(match byte {
            b'+' if plus => b' ',
            b'%' => {
                let digits = tail
                    .get(..2)
                    .filter(|two| two.iter().all(u8::is_ascii_hexdigit));
                let value = digits
                    .and_then(|two| std::str::from_utf8(two).ok())
                    .and_then(|two| u8::from_str_radix(two, 16).ok());
                rest = tail.get(2..).unwrap_or_default();
                value.ok_or_else(|| {
                    invalid(
                        "a `%` is not followed by two hexadecimal digits",
                        "Write a literal `%` as `%25`.",
                    )
                })?
            }
            other => *other,
        });
    }
    String::from_utf8(out).map_err(|_| {
        Error::new(
            ErrorKind::InvalidKey,
            "the key is not UTF-8",
            "Percent-encode the UTF-8 bytes of the key.",
        )
    })
}

fn invalid(message: impl Into<String>, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidRequest, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |path: &str, expect: Option<Result<Target, ErrorKind>>| {
            let found = parse_path(path).map(|result| result.map_err(|error| error.kind()));
            assert_eq!(found, expect, "{path}");
        };
        let object = |key: &str| Some(Ok(Target::Object(Key::new(key).unwrap())));
        check("/healthz", Some(Ok(Target::Health)));
        check("/v1/objects", Some(Ok(Target::Objects)));
        check("/v1/objects/a", object("a"));
        check("/v1/objects/a/b/c.txt", object("a/b/c.txt"));
        check("/v1/objects/a//b/", object("a//b/"));
        check("/v1/objects/..%2f..%2fetc", object("../../etc"));
        check("/v1/objects/a+b%20c", object("a+b c"));
        check("/v1/objects/%E2%98%83", object("☃"));
        check("/v1/objects/", Some(Err(ErrorKind::InvalidKey)));
        check("/v1/objects/%00", Some(Err(ErrorKind::InvalidKey)));
        check("/v1/objects/%ff", Some(Err(ErrorKind::InvalidKey)));
        check("/v1/objects/%2", Some(Err(ErrorKind::InvalidRequest)));
        check("/v1/objects/%+1", Some(Err(ErrorKind::InvalidRequest)));
        check("/v1/objectsx", None);
        check("/", None);
    }

    #[test]
    fn list_queries() {
        let check = |query: &str, expect: Result<(&str, Option<&str>, usize), ErrorKind>| {
            let found = parse_list(query);
            let found = found
                .as_ref()
                .map(|list| (list.prefix.as_str(), list.after.as_deref(), list.limit))
                .map_err(Error::kind);
            assert_eq!(found, expect, "{query}");
        };
        check("", Ok(("", None, 100)));
        check(
            "prefix=a%2Fb&limit=7&after=a/b+c",
            Ok(("a/b", Some("a/b c"), 7)),
        );
        check("after=", Ok(("", None, 100)));
        check("limit=1000", Ok(("", None, 1000)));
        check("limit=0", Err(ErrorKind::InvalidRequest));
        check("limit=1001", Err(ErrorKind::InvalidRequest));
        check("limit=-1", Err(ErrorKind::InvalidRequest));
        check("prefx=a", Err(ErrorKind::InvalidRequest));
    }
}
