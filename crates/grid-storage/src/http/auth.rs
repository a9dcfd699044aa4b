//! The bearer token.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use hyper::header::{AUTHORIZATION, HeaderMap};
use subtle::ConstantTimeEq;

use crate::config::StorageConfig;
use crate::error::{Error, ErrorKind};

/// Shorter tokens are too easily guessed.
const MIN_TOKEN_BYTES: usize = 16;
/// Longer files are not tokens; this bounds what is read of them.
const MAX_TOKEN_BYTES: u64 = 4096;

/// The token that requests must carry. Never shown.
pub(crate) struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the token that `config` names; none is needed on loopback.
    pub(crate) fn load(config: &StorageConfig) -> Result<Option<Self>, Error> {
        let Some(path) = &config.token_file else {
            let reached = config.published.unwrap_or(config.listen.ip());
            return if is_loopback(reached) {
                Ok(None)
            } else {
                Err(needed(SocketAddr::new(reached, config.listen.port())))
            };
        };
        let unusable = |problem: String| {
            Error::new(
                ErrorKind::Token,
                format!("the token file `{}` {problem}", path.display()),
                "Write a random token into it, such as the output of `openssl rand -hex 32`.",
            )
        };
        let unreadable = |source| unusable("cannot be read".to_owned()).with_source(source);
        // Looked at first: to open a pipe may last for ever.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(unusable("is no file".to_owned()));
        }
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text))
            .map_err(unreadable)?;
        let token = text.trim();
        if token.len() < MIN_TOKEN_BYTES {
            return Err(unusable(format!(
                "holds fewer than {MIN_TOKEN_BYTES} bytes"
            )));
        }
        if text.len() as u64 > MAX_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(unusable(
                "does not hold one line of visible ASCII".to_owned(),
            ));
        }
        Ok(Some(Self(token.as_bytes().to_vec())))
    }

    /// Whether the headers carry the token; the time taken does not depend on how much of it
    /// is right.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        // Of two, it is anybody's guess which one counts.
        let value = all.next().filter(|_| all.next().is_none());
        let given = value.and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
        });
        let problem = match given {
            Some(given) if bool::from(self.0.ct_eq(given)) => return Ok(()),
            Some(_) => "the bearer token is not this server's",
            None => "this server wants one bearer token",
        };
        Err(Error::new(
            ErrorKind::Unauthorized,
            problem,
            "Send `Authorization: Bearer ...` with the content of the server's token file.",
        ))
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn needed(address: SocketAddr) -> Error {
    Error::new(
        ErrorKind::Token,
        format!(
            "refusing to listen on `{address}` without a token: others than this host can reach it"
        ),
        "Listen on `127.0.0.1`, or give `--token-file` a file with a random token.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn a_token_is_needed_beyond_loopback_only() {
        let check = |address: &str, ok: bool| {
            let config = StorageConfig::new("/data", address.parse().unwrap());
            let found = Token::load(&config);
            assert_eq!(found.is_ok(), ok, "{address}");
            if let Err(error) = found {
                assert_eq!(error.kind(), ErrorKind::Token);
                assert!(error.hint().contains("--token-file"));
            }
        };
        check("127.0.0.1:0", true);
        check("127.8.9.1:80", true);
        check("[::1]:0", true);
        check("[::ffff:127.0.0.1]:0", true);
        check("0.0.0.0:0", false);
        check("[::]:0", false);
        check("192.0.2.1:0", false);
    }

    #[test]
    fn token_files() {
        let dir = tempfile::tempdir().unwrap();
        let check = |content: &str, ok: bool| {
            let path = dir.path().join("token");
            std::fs::write(&path, content).unwrap();
            let mut config = StorageConfig::new("/data", "0.0.0.0:0".parse().unwrap());
            config.token_file = Some(path);
            assert_eq!(Token::load(&config).is_ok(), ok, "{content:?}");
        };
        check("0123456789abcdef\n", true);
        check("", false);
        check("short\n", false);
        check("0123456789abcdef two words", false);
        check(&"x".repeat(5000), false);
        let mut config = StorageConfig::new("/data", "127.0.0.1:0".parse().unwrap());
        config.token_file = Some(dir.path().join("absent"));
        assert_eq!(Token::load(&config).unwrap_err().kind(), ErrorKind::Token);
    }

    #[test]
    fn requests() {
        let token = Token(b"0123456789abcdef".to_vec());
        let check = |header: Option<&str>, ok: bool| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(AUTHORIZATION, HeaderValue::from_str(header).unwrap());
            }
            assert_eq!(token.check(&headers).is_ok(), ok, "{header:?}");
        };
        check(Some("Bearer 0123456789abcdef"), true);
        check(Some("bearer 0123456789abcdef"), true);
        check(Some("Bearer 0123456789abcde"), false);
        check(Some("Bearer 0123456789abcdef0"), false);
        check(Some("Bearer 1123456789abcdef"), false);
        check(Some("Bearer "), false);
        check(Some("Bearer"), false);
        check(Some("Basic 0123456789abcdef"), false);
        check(Some("0123456789abcdef"), false);
        check(None, false);
        assert_eq!(format!("{token:?}"), "Token(..)");
    }
}
