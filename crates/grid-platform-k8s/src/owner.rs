//! Whose objects these are: the owner id and the key of digests, which are in the cluster and nowhere else.
//!
//! The ConfigMap `sutra-grid.<install>` has the owner id and remembers its own uid, so that a copy of it, in another
//! namespace or cluster, is known for one: two agents of one owner id would take each other's nodes for their own. The
//! Secret of the same name has the key.

use std::collections::BTreeMap;

use grid_platform_api::{DigestKey, Error, ErrorKind, OwnerId, Result};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};

use crate::{access::Access, config::KubernetesConfig, error::error, translate::label};

/// What this version writes.
const VERSION: &str = "1";
/// The ConfigMap's own uid, in itself.
const MADE_AS: &str = "made_as";
/// `yes` on a copied ConfigMap says that it shall be the one from now on.
const ACCEPT: &str = "sutra.grid/accept-copy";
/// The Secret's entry.
const KEY: &str = "key";
/// How often what somebody else changed at the same moment is read again.
const ROUNDS: u32 = 10;

/// The name of an installation's ConfigMap, Secret and Lease.
pub(crate) fn name(config: &KubernetesConfig) -> String {
    format!("sutra-grid.{}", config.install)
}

/// The labels of an installation's own objects.
pub(crate) fn labels(config: &KubernetesConfig) -> BTreeMap<String, String> {
    BTreeMap::from([
        (label::GRID.to_owned(), "true".to_owned()),
        (label::INSTALL.to_owned(), config.install.clone()),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            "sutra-grid".to_owned(),
        ),
    ])
}

/// Whether an object of an installation's name is that installation's.
pub(crate) fn is_ours(meta: &ObjectMeta, config: &KubernetesConfig) -> bool {
    let labels = meta.labels.as_ref();
    let has = |name: &str, value: &str| {
        labels
            .and_then(|it| it.get(name))
            .is_some_and(|it| it == value)
    };
    has(label::GRID, "true") && has(label::INSTALL, &config.install)
}

/// An object of an installation's name that somebody else made.
pub(crate) fn foreign(kind: &str, config: &KubernetesConfig, access: &Access) -> Error {
    let name = name(config);
    error(
        ErrorKind::OwnedByOther,
        format!(
            "the {kind} `{name}` in the namespace `{}` is not a grid's",
            access.namespace
        ),
    )
    .with_hint(format!(
        "Set `kubernetes.install` to another name, or look at it by `kubectl get {kind} {name} -n {} -o yaml` and delete it if nobody needs it.",
        access.namespace
    ))
}

/// Whose objects the adapter makes.
#[derive(Clone, Debug)]
pub(crate) struct Install {
    /// The owner of all of them.
    pub(crate) owner: OwnerId,
    /// For the secrets in digests.
    pub(crate) key: DigestKey,
}

impl Install {
    /// Reads the installation of that name, and makes it where there is none. Openers at the same moment come to the same.
    ///
    /// # Errors
    /// `OwnedByOther` for a copy and for an object of that name that is somebody else's; `Corrupt` where a part is missing
    /// that objects are there of; the cluster's refusals.
    pub(crate) async fn open(access: &Access, config: &KubernetesConfig) -> Result<Self> {
        let opening = Opening {
            access,
            config,
            name: name(config),
        };
        let owner = opening.owner().await?;
        let key = opening.key(&owner).await?;
        Ok(Self { owner, key })
    }
}

struct Opening<'a> {
    access: &'a Access,
    config: &'a KubernetesConfig,
    name: String,
}

impl Opening<'_> {
    /// The owner id of the ConfigMap, which is made where there is none.
    async fn owner(&self) -> Result<OwnerId> {
        let api = self.access.api::<ConfigMap>();
        for _ in 0..ROUNDS {
            let found = self
                .access
                .call(
                    format!("look for the ConfigMap `{}`", self.name),
                    api.get_opt(&self.name),
                )
                .await?;
            let map = match found {
                Some(map) => map,
                None => match self.make_map().await? {
                    Some(map) => map,
                    None => continue,
                },
            };
            if let Some(owner) = self.settle(map).await? {
                return Ok(owner);
            }
        }
        Err(self.restless("ConfigMap"))
    }

    /// Makes the ConfigMap; `None` when it has to be looked at again.
    async fn make_map(&self) -> Result<Option<ConfigMap>> {
        if let Some(claim) = self.any_claim().await? {
            return Err(self.owner_gone(&claim));
        }
        let owner = OwnerId::from_bytes(random()?);
        let map = ConfigMap {
            metadata: self.meta(),
            data: Some(BTreeMap::from([
                ("version".to_owned(), VERSION.to_owned()),
                ("owner".to_owned(), owner.to_string()),
            ])),
            ..ConfigMap::default()
        };
        let api = self.access.api::<ConfigMap>();
        let made = self
            .access
            .call(
                format!("make the ConfigMap `{}`", self.name),
                api.create(&PostParams::default(), &map),
            )
            .await;
        match made {
            Ok(map) => Ok(Some(map)),
            // Somebody was faster, or it was this very call and its answer was lost.
            Err(fault) if fault.is_already_exists() || fault.is_lost() => Ok(None),
            Err(fault) => Err(fault.into_error()),
        }
    }

    /// The owner id of a ConfigMap that is there; `None` when it has to be looked at again.
    async fn settle(&self, mut map: ConfigMap) -> Result<Option<OwnerId>> {
        if !is_ours(&map.metadata, self.config) {
            return Err(foreign("configmap", self.config, self.access));
        }
        let data = map.data.clone().unwrap_or_default();
        if data.get("version").map(String::as_str) != Some(VERSION) {
            return Err(self.unreadable("its `version` is not one that this agent knows"));
        }
        let owner = data.get("owner").and_then(|it| it.parse::<OwnerId>().ok());
        let owner = owner.ok_or_else(|| self.unreadable("its `owner` is none"))?;
        let uid = map.metadata.uid.clone().unwrap_or_default();
        let accepted = map
            .metadata
            .annotations
            .as_ref()
            .and_then(|it| it.get(ACCEPT))
            .is_some_and(|it| it == "yes");
        match data.get(MADE_AS) {
            Some(made_as) if *made_as == uid && !accepted => return Ok(Some(owner)),
            // Said before it was needed it does not stay: it would be for any copy to come.
            Some(_) if accepted => {}
            Some(_) => return Err(self.copied()),
            // Whoever made it has not come to the second call, or never will.
            None => {}
        }
        map.data
            .get_or_insert_default()
            .insert(MADE_AS.to_owned(), uid);
        if let Some(annotations) = &mut map.metadata.annotations {
            annotations.remove(ACCEPT);
        }
        let api = self.access.api::<ConfigMap>();
        // With the version that was read: a change by somebody else is not overwritten.
        let written = self
            .access
            .call(
                format!("write the ConfigMap `{}`", self.name),
                api.replace(&self.name, &PostParams::default(), &map),
            )
            .await;
        match written {
            Ok(_) => Ok(Some(owner)),
            Err(fault) if fault.is_conflict() || fault.is_not_found() || fault.is_lost() => {
                Ok(None)
            }
            Err(fault) => Err(fault.into_error()),
        }
    }

    /// The key of the Secret, which is made where there is none and nothing was made with it.
    async fn key(&self, owner: &OwnerId) -> Result<DigestKey> {
        let api = self.access.api::<Secret>();
        for _ in 0..ROUNDS {
            let found = self
                .access
                .call(
                    format!("look for the Secret `{}`", self.name),
                    api.get_opt(&self.name),
                )
                .await?;
            let Some(secret) = found else {
                if self.any_claim().await?.is_some() {
                    return Err(self.key_gone("is gone"));
                }
                self.make_key(owner).await?;
                continue;
            };
            if !is_ours(&secret.metadata, self.config) {
                return Err(foreign("secret", self.config, self.access));
            }
            let of = secret
                .metadata
                .labels
                .as_ref()
                .and_then(|it| it.get(label::OWNER));
            let bytes = secret.data.as_ref().and_then(|it| it.get(KEY));
            match bytes.map(|it| <[u8; 32]>::try_from(it.0.as_slice())) {
                Some(Ok(key)) if of.is_some_and(|it| *it == owner.to_string()) => {
                    return Ok(DigestKey::from_bytes(key));
                }
                _ if self.any_claim().await?.is_some() => {
                    return Err(self.key_gone("is not the one that was made for it"));
                }
                // It is left over from an installation of that name that is gone.
                _ => self.delete_key(&secret).await?,
            }
        }
        Err(self.restless("Secret"))
    }

    async fn make_key(&self, owner: &OwnerId) -> Result<()> {
        let mut metadata = self.meta();
        metadata
            .labels
            .get_or_insert_default()
            .insert(label::OWNER.to_owned(), owner.to_string());
        let key = random::<32>()?.to_vec();
        let secret = Secret {
            metadata,
            data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(key))])),
            ..Secret::default()
        };
        let api = self.access.api::<Secret>();
        let made = self
            .access
            .call(
                format!("make the Secret `{}`", self.name),
                api.create(&PostParams::default(), &secret),
            )
            .await;
        match made {
            Err(fault) if !fault.is_already_exists() && !fault.is_lost() => Err(fault.into_error()),
            _ => Ok(()),
        }
    }

    async fn delete_key(&self, secret: &Secret) -> Result<()> {
        let this_one = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: secret.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api = self.access.api::<Secret>();
        let deleted = self
            .access
            .call(
                format!("delete the Secret `{}`", self.name),
                api.delete(&self.name, &this_one),
            )
            .await;
        match deleted {
            Err(fault) if !fault.is_not_found() && !fault.is_conflict() && !fault.is_lost() => {
                Err(fault.into_error())
            }
            _ => Ok(()),
        }
    }

    /// A claim of this installation, if there is one: a node's, or the data that one left.
    async fn any_claim(&self) -> Result<Option<PersistentVolumeClaim>> {
        let selector = format!(
            "{}=true,{}={}",
            label::GRID,
            label::INSTALL,
            self.config.install
        );
        let one = ListParams::default().labels(&selector).limit(1);
        let api = self.access.api::<PersistentVolumeClaim>();
        let found = self
            .access
            .call("look for claims of this installation", api.list(&one))
            .await?;
        Ok(found.items.into_iter().next())
    }

    fn meta(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(labels(self.config)),
            ..ObjectMeta::default()
        }
    }

    fn copied(&self) -> Error {
        let (name, namespace) = (&self.name, &self.access.namespace);
        error(
            ErrorKind::OwnedByOther,
            format!("the ConfigMap `{name}` in the namespace `{namespace}` is a copy of another one"),
        )
        .with_hint(format!(
            "If the other one is not used any more, run `kubectl annotate configmap {name} -n {namespace} {ACCEPT}=yes` and start again; if it is, delete this copy."
        ))
    }

    fn owner_gone(&self, claim: &PersistentVolumeClaim) -> Error {
        let (name, namespace) = (&self.name, &self.access.namespace);
        let claims = claim.metadata.name.as_deref().unwrap_or_default();
        let install = &self.config.install;
        // Whose they are stands on each of them, so that the mend can be said whole.
        let owner = claim
            .metadata
            .labels
            .as_ref()
            .and_then(|it| it.get(label::OWNER)?.parse::<OwnerId>().ok());
        let hint = match owner {
            Some(owner) => format!(
                "Put it back from a backup, or make it anew by `kubectl create configmap {name} -n {namespace} --from-literal=version={VERSION} --from-literal=owner={owner}` and `kubectl label configmap {name} -n {namespace} {}=true {}={install}`.",
                label::GRID,
                label::INSTALL
            ),
            None => format!(
                "Put it back from a backup: it says whose the claims are that `kubectl get pvc -n {namespace} -l {}={install}` lists.",
                label::INSTALL
            ),
        };
        error(
            ErrorKind::Corrupt,
            format!(
                "the ConfigMap `{name}` in the namespace `{namespace}` is gone, and the claim `{claims}` of it is there"
            ),
        )
        .with_hint(hint)
    }

    fn key_gone(&self, how: &str) -> Error {
        let (name, namespace) = (&self.name, &self.access.namespace);
        error(
            ErrorKind::Corrupt,
            format!("the Secret `{name}` in the namespace `{namespace}` {how}, and nodes were made with it"),
        )
        .with_hint(format!(
            "Put it back from a backup: without it no request with secrets can be compared with the node that was made of it. `kubectl get pvc -n {namespace} -l {}={}` lists the nodes.",
            label::INSTALL,
            self.config.install
        ))
    }

    fn unreadable(&self, why: &str) -> Error {
        error(
            ErrorKind::Corrupt,
            format!(
                "the ConfigMap `{}` in the namespace `{}` cannot be understood: {why}",
                self.name, self.access.namespace
            ),
        )
        .with_hint("Put it back from a backup: it says whose the nodes in this namespace are.")
    }

    fn restless(&self, kind: &str) -> Error {
        error(
            ErrorKind::Unavailable,
            format!(
                "the {kind} `{}` in the namespace `{}` does not come to rest",
                self.name, self.access.namespace
            ),
        )
        .with_hint(format!(
            "Somebody else changes it again and again: `kubectl get {} {} -n {} -o yaml --show-managed-fields` shows who.",
            kind.to_lowercase(),
            self.name,
            self.access.namespace
        ))
    }
}

/// Bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        error(
            ErrorKind::Internal,
            "cannot read the system's random source",
        )
        .with_source(std::io::Error::other(e.to_string()))
    })?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "owner_tests.rs"]
mod tests;
