//! How requests are read, for the fuzz targets and property tests of this repository. No part of the API.

use crate::http::range::{Span, parse_range};
use crate::http::target::{Target, parse_list, parse_path};
use crate::{Error, Key};

/// The key that a path names, if it is a path of objects.
pub fn key_of_path(path: &str) -> Option<Result<Key, Error>> {
    match parse_path(path)? {
        Ok(Target::Object(key)) => Some(Ok(key)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    }
}

/// Prefix, `after` and limit of a listing's query.
///
/// # Errors
/// Those of a listing.
pub fn list_query(query: &str) -> Result<(String, Option<String>, usize), Error> {
    parse_list(query).map(|list| (list.prefix, list.after, list.limit))
}

/// The part of a body of `size` bytes that a `Range` header asks for, from the first byte to before the last; `Some(None)`
/// when there is no such part, `None` for the whole.
pub fn range(header: &str, size: u64) -> Option<Option<(u64, u64)>> {
    match parse_range(header, size) {
        Span::Whole => None,
        Span::Part(first, end) => Some(Some((first, end))),
        Span::Unsatisfiable => Some(None),
    }
}
