//! TLS to a real engine, with certificates that are made here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use grid_platform_api::{Error, ErrorKind};
use grid_platform_testing::HostPlace;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::*;

/// Longer than an engine takes to come up on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// An authority that signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// A directory like Docker's: this authority to trust, and a certificate of `of` for `name`.
    fn directory(&self, of: Option<&Self>, name: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), self.0.pem()).unwrap();
        if let Some(of) = of {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let signed = params.signed_by(&key, &of.0).unwrap();
            fs::write(dir.path().join("cert.pem"), signed.pem()).unwrap();
            fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        }
        dir
    }
}

/// An engine that speaks TLS only, ended when this is dropped.
struct TlsEngine {
    daemon: Child,
    port: u16,
    place: HostPlace,
}

impl TlsEngine {
    fn start(certificates: &Path) -> Self {
        let place = HostPlace::new().unwrap();
        let (port, _) = place.new_ports();
        let path = |name: &str| place.path().join(name);
        let daemon = Command::new("dockerd")
            .arg("--tlsverify")
            .arg("--tlscacert")
            .arg(certificates.join("ca.pem"))
            .arg("--tlscert")
            .arg(certificates.join("cert.pem"))
            .arg("--tlskey")
            .arg(certificates.join("key.pem"))
            .args(["--host", &format!("tcp://127.0.0.1:{port}")])
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .expect("`dockerd` is Debian's package `docker.io`");
        Self {
            daemon,
            port,
            place,
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// Asks it for its version, again and again until it listens.
    async fn version(&mut self, certificates: Option<PathBuf>, host: &str) -> Result<String> {
        let config = DockerConfig {
            host: Some(format!("tcp://{host}:{}", self.port)),
            cert_path: certificates,
            ..DockerConfig::new("/s", "/d")
        };
        self.ask(&config).await
    }

    async fn ask(&mut self, config: &DockerConfig) -> Result<String> {
        let engine = Engine::find(config).await?;
        let begun = std::time::Instant::now();
        loop {
            match engine.version().await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    let ended = self.daemon.try_wait().unwrap();
                    assert!(
                        ended.is_none() && begun.elapsed() < PATIENCE,
                        "{error}\n{}",
                        self.said()
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answer => return answer.map(|it| it.to_string()),
            }
        }
    }
}

impl Drop for TlsEngine {
    fn drop(&mut self) {
        // Asked, and not killed, so that it ends its own containerd.
        let pid = i32::try_from(self.daemon.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.daemon.wait().ok();
    }
}

fn check(answer: Result<String>, kind: ErrorKind, hint: &str) {
    let error: Error = answer.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.report());
    assert!(error.hint().unwrap().contains(hint), "{}", error.report());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_tls_is_spoken_with_certificates_of_one_authority() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let of_engine = ours.directory(Some(&ours), "127.0.0.1");
    let mut engine = TlsEngine::start(of_engine.path());
    let path = |dir: &tempfile::TempDir| Some(dir.path().to_owned());

    let good = ours.directory(Some(&ours), "client");
    let spoken = engine.version(path(&good), "127.0.0.1").await;
    assert!(
        spoken.as_ref().is_ok_and(|it| it.starts_with("1.")),
        "{spoken:?}"
    );

    let plain = engine.version(None, "127.0.0.1").await;
    check(plain, ErrorKind::InvalidConfig, "docker.cert_path");
    let untrusted = theirs.directory(Some(&ours), "client");
    let answer = engine.version(path(&untrusted), "127.0.0.1").await;
    check(answer, ErrorKind::PermissionDenied, "ca.pem");
    // Its certificate is for the address, not for the name.
    let answer = engine.version(path(&good), "localhost").await;
    check(
        answer,
        ErrorKind::PermissionDenied,
        "as its certificate does",
    );
    for stranger in [
        ours.directory(None, ""),
        ours.directory(Some(&theirs), "client"),
    ] {
        let answer = engine.version(path(&stranger), "127.0.0.1").await;
        check(answer, ErrorKind::PermissionDenied, "cert.pem");
    }

    // A Docker context has certificates of its own.
    let home = tempfile::tempdir().unwrap();
    let name = crate::context::directory("far");
    let meta = home.path().join("contexts/meta").join(&name);
    fs::create_dir_all(&meta).unwrap();
    let host = format!("tcp://127.0.0.1:{}", engine.port);
    let json = serde_json::json!({"Name": "far", "Endpoints": {"docker": {"Host": host}}});
    fs::write(meta.join("meta.json"), json.to_string()).unwrap();
    let tls = home.path().join("contexts/tls").join(&name).join("docker");
    fs::create_dir_all(&tls).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(good.path().join(file), tls.join(file)).unwrap();
    }
    let config = DockerConfig {
        context: Some("far".into()),
        config_file: Some(home.path().join("config.json")),
        ..DockerConfig::new("/s", "/d")
    };
    assert_eq!(engine.ask(&config).await.unwrap(), spoken.unwrap());
}

#[tokio::test]
async fn what_does_not_speak_tls_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // As an engine without TLS answers to a handshake.
            let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request";
            stream.write_all(answer).await.ok();
        }
    });
    let ours = Authority::new("ours");
    let good = ours.directory(Some(&ours), "client");
    let config = DockerConfig {
        host: Some(format!("tcp://127.0.0.1:{port}")),
        cert_path: Some(good.path().to_owned()),
        ..DockerConfig::new("/s", "/d")
    };
    let engine = Engine::find(&config).await.unwrap();
    let answer = engine.version().await.map(|it| it.to_string());
    check(answer, ErrorKind::InvalidConfig, "--tlsverify");
}
