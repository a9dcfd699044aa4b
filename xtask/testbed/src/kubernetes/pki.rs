//! The certificates, keys, tokens and kubeconfigs of a cluster.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use serde_json::json;

/// Who has a kubeconfig: its name, whom the cluster takes it for, and in which group.
const USERS: [(&str, &str, &str); 5] = [
    ("admin", "admin", "system:masters"),
    (
        "kube-controller-manager",
        "system:kube-controller-manager",
        "",
    ),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kubelet", super::settings::NODE_USER, "system:nodes"),
    ("kube-proxy", "system:kube-proxy", ""),
];

/// Where they are.
#[derive(Debug, Clone)]
pub(super) struct Pki(pub(super) PathBuf);

impl Pki {
    pub(super) fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes them all, unless they are there.
    pub(super) fn ensure(&self, server: &str, names: &[&str], node: &[&str]) -> Result<(), String> {
        let done = self.0.join("done");
        if done.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.0).map_err(|error| broken(&self.0, &error))?;
        self.certificates(names, node)
            .map_err(|error| format!("cannot make certificates: {error}"))?;
        let mut tokens = String::new();
        for (file, user, group) in USERS {
            let token = random()?;
            tokens += &format!("{token},{user},{user},\"{group}\"\n");
            let config = kubeconfig(server, &self.file("ca.crt"), &token);
            self.write(&format!("{file}.kubeconfig"), &config)?;
        }
        self.write("tokens.csv", &tokens)?;
        self.write("done", "")
    }

    fn certificates(&self, names: &[&str], node: &[&str]) -> Result<(), String> {
        let words = |error: rcgen::Error| error.to_string();
        let mut of_ca = params("sutra-grid-testbed", "", &[])?;
        of_ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(words)?;
        let ca = CertifiedIssuer::self_signed(of_ca, key).map_err(words)?;
        self.write("ca.crt", &ca.pem())?;
        let all = [
            ("apiserver", "kube-apiserver", "", names),
            (
                "apiserver-kubelet",
                "kube-apiserver-kubelet-client",
                "system:masters",
                &["kube-apiserver"][..],
            ),
            ("kubelet", super::settings::NODE, "", node),
        ];
        for (file, name, group, names) in all {
            let key = KeyPair::generate().map_err(words)?;
            let signed = params(name, group, names)?
                .signed_by(&key, &ca)
                .map_err(words)?;
            self.write(&format!("{file}.crt"), &signed.pem())?;
            self.write(&format!("{file}.key"), &key.serialize_pem())?;
        }
        let accounts = KeyPair::generate().map_err(words)?;
        self.write("accounts.pub", &accounts.public_key_pem())?;
        self.write("accounts.key", &accounts.serialize_pem())
    }

    /// Writes what nobody else may read.
    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        write_private(&self.0.join(name), text)
    }
}

/// A client's settings, in JSON, which is YAML too.
pub(super) fn kubeconfig(server: &str, ca: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "testbed",
            "cluster": { "server": server, "certificate-authority": ca },
        }],
        "users": [{ "name": "user", "user": { "token": token } }],
        "contexts": [{
            "name": "testbed",
            "context": { "cluster": "testbed", "user": "user" },
        }],
        "current-context": "testbed",
    })
    .to_string()
}

pub(super) fn write_private(file: &Path, text: &str) -> Result<(), String> {
    let write = || {
        let mut open = File::options();
        open.create(true).truncate(true).write(true).mode(0o600);
        open.open(file)?.write_all(text.as_bytes())
    };
    write().map_err(|error| broken(file, &error))
}

fn params(name: &str, group: &str, names: &[&str]) -> Result<CertificateParams, String> {
    let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut it| it.read_exact(&mut bytes))
        .map_err(|error| format!("cannot read `/dev/urandom`: {error}"))?;
    Ok(bytes.iter().map(|it| format!("{it:02x}")).collect())
}

fn broken(path: &Path, error: &std::io::Error) -> String {
    format!("cannot use `{}`: {error}", path.display())
}
