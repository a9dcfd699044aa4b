//! Tokens: who may do what.

use std::sync::Arc;

use axum::http::StatusCode;
use grid_client::Role;
use grid_platform_api::{Error, ErrorKind, Result, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{error::ApiError, grid::Grid, store::row::TokenRow};

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing into a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes of hexadecimal digits; `None` for anything else.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// `N` bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::new(ErrorKind::Internal, "the system has no random bytes").with_source(e)
    })?;
    Ok(bytes)
}

/// Makes a token: what is stored, and its value, which is shown once.
pub(crate) fn mint(role: Role, note: Option<String>) -> Result<(TokenRow, String)> {
    let id = format!("{}-{}", role.as_str(), hex(&random::<6>()?));
    let secret = hex(&random::<32>()?);
    let value = format!("{id}.{secret}");
    let row = TokenRow {
        id,
        role,
        hash: hex(&Sha256::digest(secret.as_bytes())),
        note,
        install_id: None,
        created_at: Timestamp::now(),
    };
    Ok((row, value))
}

fn unauthorized(message: &str) -> ApiError {
    let error = Error::new(ErrorKind::PermissionDenied, message).with_hint(
        "Send `Authorization: Bearer TOKEN`; the first tokens lie under `tokens/` of the master's state directory.",
    );
    ApiError::with_status(StatusCode::UNAUTHORIZED, error)
}

/// The token behind an `authorization` header.
///
/// # Errors
/// 401 without a token that is known.
pub(crate) fn authenticate(grid: &Grid, header: Option<&[u8]>) -> Result<Arc<TokenRow>, ApiError> {
    let Some(header) = header else {
        return Err(unauthorized("a token is wanted"));
    };
    let value = std::str::from_utf8(header)
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, value)| value.trim().split_once('.'));
    let Some((id, secret)) = value else {
        return Err(unauthorized(
            "the `authorization` header holds no token of this grid's form",
        ));
    };
    let hash = hex(&Sha256::digest(secret.as_bytes()));
    let row = grid.token(id);
    // A token that is not known takes as long as one that is wrong: hashes of one length are compared whole.
    let nobody = "0".repeat(hash.len());
    let expect = row
        .as_ref()
        .map_or(nobody.as_str(), |row| row.hash.as_str());
    let equal: bool = hash.as_bytes().ct_eq(expect.as_bytes()).into();
    match row {
        Some(row) if equal => Ok(row),
        _ => Err(unauthorized("the token is not known")),
    }
}

/// Checks that the token's role is one of `roles`.
///
/// # Errors
/// 403 that names the roles that would do.
pub(crate) fn allow(token: &TokenRow, roles: &[Role]) -> Result<(), ApiError> {
    if roles.contains(&token.role) {
        return Ok(());
    }
    let wanted: Vec<String> = roles.iter().map(|r| format!("`{}`", r.as_str())).collect();
    Err(Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "a token of the role `{}` may not do this",
            token.role.as_str()
        ),
    )
    .with_hint(format!("Use a token of the role {}.", wanted.join(" or ")))
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_their_role_and_keep_their_value() {
        let (row, value) = mint(Role::Read, None).unwrap();
        assert!(value.starts_with("read-"));
        let secret = value.split_once('.').unwrap().1;
        assert_eq!(secret.len(), 64);
        assert!(!serde_json::to_string(&row).unwrap().contains(secret));
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        for bad in ["a", "zz", "éé"] {
            assert_eq!(unhex(bad), None);
        }
    }
}
