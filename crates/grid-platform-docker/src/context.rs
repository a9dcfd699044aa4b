//! Where the engine is: what the settings say, else a Docker context, else the usual socket.

use std::{fs, io, path::Path, sync::Arc};

use grid_platform_api::{Error, ErrorKind, Result, printable};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    config::DockerConfig, error::error, images::docker_config::DockerFile, transport::Address,
};

/// Where engines listen when nobody says otherwise.
const USUAL_SOCKET: &str = "/var/run/docker.sock";
/// The context that is no file: the usual socket.
const DEFAULT_CONTEXT: &str = "default";

/// Finds the engine's address. Reads files, and connects to nothing.
///
/// # Errors
/// `InvalidConfig`, with the key or file that is at fault.
pub(crate) fn resolve(config: &DockerConfig) -> Result<Address> {
    if let Some(host) = &config.host {
        return address(host, "`docker.host`", config.cert_path.as_deref());
    }
    let name = match (&config.context, &config.config_file) {
        (Some(name), _) => Some(name.clone()),
        (None, Some(file)) => DockerFile::read(file)?.current_context,
        (None, None) => None,
    };
    match name {
        Some(name) if !name.is_empty() && name != DEFAULT_CONTEXT => of_context(config, &name),
        _ => Ok(Address::Unix(USUAL_SOCKET.into())),
    }
}

/// The little of a context's file that says where its engine is.
#[derive(Deserialize)]
struct Context {
    #[serde(rename = "Endpoints", default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "Host", default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skip_tls_verify: bool,
}

fn of_context(config: &DockerConfig, name: &str) -> Result<Address> {
    let shown = printable(name);
    let invalid = |message: String| {
        error(ErrorKind::InvalidConfig, message)
            .with_hint("`docker context ls` lists the contexts; `docker.context` chooses one, and `docker.host` does without.")
    };
    let Some(home) = config.config_file.as_deref().and_then(Path::parent) else {
        return Err(invalid(format!(
            "the Docker context `{shown}` is in no directory that is known"
        ))
        .with_hint("Set `docker.config_file` to Docker's `config.json`: contexts are beside it."));
    };
    let directory = directory(name);
    let file = home
        .join("contexts/meta")
        .join(&directory)
        .join("meta.json");
    let text = fs::read(&file).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => invalid(format!("there is no Docker context `{shown}`")),
        _ => unreadable(&file, e),
    })?;
    let context: Context = serde_json::from_slice(&text).map_err(|e| {
        invalid(format!("cannot understand the Docker context `{shown}`")).with_source(e)
    })?;
    let Some(endpoint) = context.endpoints.docker.filter(|it| !it.host.is_empty()) else {
        return Err(invalid(format!(
            "the Docker context `{shown}` names no engine"
        )));
    };
    if endpoint.skip_tls_verify {
        return Err(invalid(format!(
            "the Docker context `{shown}` has its engine's certificate unchecked"
        ))
        .with_hint("Give the context the certificate's `ca.pem` by `docker context update`: who answers to an engine's name is as good as root here."));
    }
    let certificates = home.join("contexts/tls").join(&directory).join("docker");
    let certificates = match &config.cert_path {
        Some(path) => Some(path.as_path()),
        None => certificates.is_dir().then_some(certificates.as_path()),
    };
    address(
        &endpoint.host,
        &format!("the Docker context `{shown}`"),
        certificates,
    )
}

/// What Docker calls the directories of a context.
pub(crate) fn directory(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An address as `DOCKER_HOST` has it; `whose` says where it stands.
fn address(text: &str, whose: &str, certificates: Option<&Path>) -> Result<Address> {
    let invalid = |why: &str| {
        error(
            ErrorKind::InvalidConfig,
            format!("{whose} names `{}`, {why}", printable(text)),
        )
        .with_hint("Write it as `unix:///var/run/docker.sock` or `tcp://HOST:PORT`.")
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(invalid("which is no address"));
    };
    match scheme {
        "unix" if Path::new(rest).is_absolute() => Ok(Address::Unix(rest.into())),
        "unix" => Err(invalid("whose path is not absolute")),
        "tcp" | "http" | "https" => {
            let usual = if certificates.is_some() { 2376 } else { 2375 };
            let (host, port) =
                host_and_port(rest, usual).ok_or_else(|| invalid("which is no address"))?;
            if scheme == "https" && certificates.is_none() {
                return Err(invalid("and there are no certificates").with_hint(
                    "Set `docker.cert_path` to the directory of `ca.pem`, `cert.pem` and `key.pem`.",
                ));
            }
            let tls = certificates.map(tls).transpose()?;
            Ok(Address::Tcp { host, port, tls })
        }
        "ssh" => Err(invalid("and ssh is not spoken here").with_hint(
            "Forward the engine's socket by `ssh -N -L /run/engine.sock:/var/run/docker.sock HOST`, and set `docker.host` to `unix:///run/engine.sock`.",
        )),
        _ => Err(invalid("which is no address of an engine on Linux")),
    }
}

/// `HOST`, `HOST:PORT` or `[IPV6]:PORT`, with nothing but a `/` behind.
fn host_and_port(text: &str, usual: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            match rest.strip_prefix(':') {
                None if !rest.is_empty() => return None,
                port => (host, port),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|it| *it != 0)?,
        None => usual,
    };
    // What stands in a host name; a path, a user or a query is none of it.
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    (!host.is_empty() && host.chars().all(fine)).then(|| (host.to_owned(), port))
}

/// TLS with the certificates of a directory, as Docker lays them out: the engine's is checked against `ca.pem` and no
/// other root, and `cert.pem` with `key.pem` is ours, where they are there.
fn tls(directory: &Path) -> Result<Arc<ClientConfig>> {
    let wrong = |path: &Path, why: &str| {
        error(
            ErrorKind::InvalidConfig,
            format!("`{}` {why}", path.display()),
        )
        .with_hint(
            "`docker.cert_path` is the directory of `ca.pem`, `cert.pem` and `key.pem`, in PEM.",
        )
    };
    let (ca, cert, key) = (
        directory.join("ca.pem"),
        directory.join("cert.pem"),
        directory.join("key.pem"),
    );
    let mut roots = RootCertStore::empty();
    for root in certificates(&ca)? {
        roots
            .add(root)
            .map_err(|e| wrong(&ca, "is no certificate authority's").with_source(e))?;
    }
    if roots.is_empty() {
        return Err(wrong(&ca, "holds no certificate"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(ErrorKind::Internal, "TLS cannot be set up").with_source(e))?
        .with_root_certificates(roots);
    // An engine may know its callers by other means, such as a proxy before it.
    if !cert.exists() && !key.exists() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let own = certificates(&cert)?;
    let text = fs::read(&key).map_err(|e| unreadable(&key, e))?;
    let secret = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|e| wrong(&key, "holds no key").with_source(e))?;
    let config = builder
        .with_client_auth_cert(own, secret)
        .map_err(|e| wrong(&cert, "does not go with `key.pem`").with_source(e))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = fs::read(path).map_err(|e| unreadable(path, e))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| {
            error(
                ErrorKind::InvalidConfig,
                format!("`{}` holds no certificate", path.display()),
            )
            .with_source(e)
            .with_hint("Write it in PEM.")
        })
}

/// The error of a file of the engine's that cannot be read.
pub(crate) fn unreadable(path: &Path, fault: io::Error) -> Error {
    let kind = match fault.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::InvalidConfig,
    };
    error(kind, format!("cannot read `{}`", path.display()))
        .with_source(fault)
        .with_hint("Give the agent's user the right to read it, or name another file by the `docker` settings.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(result: Result<Address>) -> String {
        match result {
            Ok(address) => address.to_string(),
            Err(error) => format!("{}: {error}", error.kind()),
        }
    }

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let check = |text: &str, expect: &str| {
            assert_eq!(shown(address(text, "it", None)), expect, "{text}");
        };
        check("unix:///run/x.sock", "unix:///run/x.sock");
        check("tcp://127.0.0.1:2375", "tcp://127.0.0.1:2375");
        check("tcp://engine.example", "tcp://engine.example:2375");
        check("http://engine:80/", "tcp://engine:80");
        check("tcp://[::1]:99", "tcp://[::1]:99");
        check(
            "unix://run/x",
            "invalid_config: it names `unix://run/x`, whose path is not absolute",
        );
        for text in [
            "",
            "/var/run/docker.sock",
            "npipe:////./pipe/docker",
            "fd://",
            "tcp://",
            "tcp://h:0",
            "tcp://h:x",
            "tcp://h/path",
            "tcp://user@h:1",
            "tcp://[h]:1",
            "tcp://[::1]junk",
            "tcp://[::1]2375",
            "ssh://h",
            "https://h",
        ] {
            let error = address(text, "it", None).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
            assert!(error.hint().is_some(), "{text}");
        }
    }

    /// A directory like `~/.docker` with one context.
    fn docker_home(context: &str, host: &str, current: Option<&str>) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let meta = home.path().join("contexts/meta").join(directory(context));
        fs::create_dir_all(&meta).unwrap();
        let json = serde_json::json!({
            "Name": context, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": false}},
        });
        fs::write(meta.join("meta.json"), json.to_string()).unwrap();
        let config = match current {
            Some(current) => serde_json::json!({"currentContext": current}),
            None => serde_json::json!({}),
        };
        fs::write(home.path().join("config.json"), config.to_string()).unwrap();
        home
    }

    fn config(home: &Path) -> DockerConfig {
        DockerConfig {
            config_file: Some(home.join("config.json")),
            ..DockerConfig::new("/s", "/d")
        }
    }

    #[test]
    fn the_settings_come_before_the_context_and_the_context_before_the_usual_socket() {
        let home = docker_home("far", "tcp://10.0.0.1:2375", Some("far"));
        let mut settings = config(home.path());
        assert_eq!(shown(resolve(&settings)), "tcp://10.0.0.1:2375");
        settings.context = Some("default".into());
        assert_eq!(shown(resolve(&settings)), "unix:///var/run/docker.sock");
        settings.context = Some("far".into());
        settings.host = Some("unix:///mine.sock".into());
        assert_eq!(shown(resolve(&settings)), "unix:///mine.sock");

        let home = docker_home("far", "tcp://10.0.0.1:2375", None);
        let mut settings = config(home.path());
        assert_eq!(shown(resolve(&settings)), "unix:///var/run/docker.sock");
        settings.context = Some("far".into());
        assert_eq!(shown(resolve(&settings)), "tcp://10.0.0.1:2375");
        settings.context = Some("fra".into());
        assert_eq!(
            shown(resolve(&settings)),
            "invalid_config: there is no Docker context `fra`"
        );
        settings.config_file = None;
        assert!(resolve(&settings).is_err());
        settings.context = None;
        assert_eq!(shown(resolve(&settings)), "unix:///var/run/docker.sock");
    }

    #[test]
    fn a_context_that_is_damaged_or_unchecked_is_refused() {
        let home = docker_home("far", "", Some("far"));
        assert_eq!(
            shown(resolve(&config(home.path()))),
            "invalid_config: the Docker context `far` names no engine"
        );
        let meta = fs::read_dir(home.path().join("contexts/meta"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
            .join("meta.json");
        fs::write(&meta, "{").unwrap();
        assert!(resolve(&config(home.path())).is_err());
        let unchecked = r#"{"Endpoints":{"docker":{"Host":"tcp://h:1","SkipTLSVerify":true}}}"#;
        fs::write(&meta, unchecked).unwrap();
        assert_eq!(
            shown(resolve(&config(home.path()))),
            "invalid_config: the Docker context `far` has its engine's certificate unchecked"
        );
    }

    #[test]
    fn certificates_that_are_none_are_told() {
        let home = tempfile::tempdir().unwrap();
        let error = tls(home.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("ca.pem"), "{error}");
        fs::write(home.path().join("ca.pem"), "no certificate").unwrap();
        let error = tls(home.path()).unwrap_err();
        assert!(
            error.to_string().ends_with("holds no certificate"),
            "{error}"
        );
    }
}
