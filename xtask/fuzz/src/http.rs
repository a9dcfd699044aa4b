//! What grid-storage reads of a request: paths, queries and `Range`.

use grid_storage::{MAX_KEY_BYTES, fuzzing};

/// A path and a query of any text: a key that comes out is within the grammar, and is what the path says, whichever way
/// it is written.
pub fn object_key(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = fuzzing::list_query(&text);
    let _ = fuzzing::key_of_path(&text);
    if let Some(Ok(key)) = fuzzing::key_of_path(&format!("/v1/objects/{text}")) {
        let key = key.as_str();
        assert!((1..=MAX_KEY_BYTES).contains(&key.len()));
        assert!(!key.chars().any(char::is_control));
        let path = format!("/v1/objects/{}", encoded(key));
        let again = fuzzing::key_of_path(&path).unwrap().unwrap();
        assert_eq!(again.as_str(), key);
        let (prefix, after, _) =
            fuzzing::list_query(&format!("prefix={0}&after={0}", encoded(key))).unwrap();
        assert_eq!((prefix.as_str(), after.as_deref()), (key, Some(key)));
    }
}

/// Every byte percent-encoded.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A `Range` header of any text over a body of any size: what comes out lies within the body, and is not empty.
pub fn range(bytes: &[u8]) {
    let (size, header) = match bytes.split_first_chunk::<8>() {
        Some((size, header)) => (u64::from_le_bytes(*size), header),
        None => (10, bytes),
    };
    let header = String::from_utf8_lossy(header);
    for size in [size, 0, 1, 10] {
        for header in [header.to_string(), format!("bytes={header}")] {
            if let Some(Some((first, end))) = fuzzing::range(&header, size) {
                assert!(first < end && end <= size, "{header:?} of {size}");
            }
        }
    }
}
