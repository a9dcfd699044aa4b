//! Who takes a lease, renews it, and takes it again after it was lost.

use std::{sync::Arc, time::Duration};

use grid_platform_api::{Result, printable};
use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use tokio::{sync::watch, time::Instant};

use crate::{
    access::Access,
    config::KubernetesConfig,
    error::Fault,
    holder::Holder,
    lease::{Moment, Shared},
    owner,
};

/// How long a lease that is not renewed is left to its holder.
pub(crate) const DURATION: Duration = Duration::from_secs(15);
/// The longest that another version's lease is waited for.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// How soon a renewal that failed is tried again, and a lease that an opener waits for is looked at.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);
/// How soon a lease that changed while it was written is looked at.
pub(crate) const SOON: Duration = Duration::from_millis(100);
/// How long one renewal may take.
const CALL: Duration = Duration::from_secs(4);

/// What came of looking at the lease.
pub(crate) enum Attempt {
    /// It is ours, by a write that was sent then.
    Taken(Moment, Box<Object>),
    /// It changed meanwhile, or nobody knows what became of the write.
    Again(Fault),
    /// Somebody else has it.
    Busy(String),
}

/// What came of a renewal.
enum Renewal {
    Renewed(Moment, Box<Object>),
    /// It has to be looked at: somebody wrote it, or nobody knows what became of the renewal.
    Look(Option<Fault>),
}

/// Who takes and renews.
pub(crate) struct Keeper {
    access: Access,
    config: KubernetesConfig,
    api: Api<Object>,
    pub(crate) name: String,
    pub(crate) me: Holder,
    /// The lease as this one last wrote it.
    pub(crate) object: Option<Box<Object>>,
    /// The times that were sent since the last write that is known to be done: the server may have taken any of them.
    sent: Vec<MicroTime>,
    /// The version that was last seen of somebody else's, and since when.
    seen: Option<(String, Instant)>,
}

impl Keeper {
    pub(crate) fn new(access: &Access, config: &KubernetesConfig) -> Result<Self> {
        Ok(Self {
            access: access.clone(),
            config: config.clone(),
            api: access.api(),
            name: owner::name(config),
            me: Holder::new()?,
            object: None,
            sent: Vec::new(),
            seen: None,
        })
    }

    /// Looks at the lease, and takes it where it is nobody's.
    pub(crate) async fn attempt(&mut self) -> Result<Attempt> {
        let found = self
            .access
            .call_within(
                CALL,
                format!("look at the Lease `{}`", self.name),
                self.api.get_opt(&self.name),
            )
            .await?;
        let Some(found) = found else {
            let fresh = Object {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    labels: Some(owner::labels(&self.config)),
                    ..ObjectMeta::default()
                },
                spec: None,
            };
            return self.write(fresh).await;
        };
        if !owner::is_ours(&found.metadata, &self.config) {
            return Err(owner::foreign("lease", &self.config, &self.access));
        }
        let spec = found.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let is_free = holder.is_empty()
            || self.is_mine(&spec)
            || holder.parse::<Holder>().is_ok_and(|it| it.is_dead())
            || self.is_expired(&found);
        match is_free {
            true => self.write(found).await,
            false => Ok(Attempt::Busy(shown(&holder))),
        }
    }

    /// Whether the lease is as this one wrote it. Its name alone does not say so: a host that was copied while it ran has
    /// a second one.
    fn is_mine(&self, spec: &LeaseSpec) -> bool {
        spec.holder_identity.as_deref() == Some(self.me.to_string().as_str())
            && spec
                .renew_time
                .as_ref()
                .is_some_and(|it| self.sent.contains(it))
    }

    /// Whether somebody else's lease was not renewed for as long as it lasts, as seen from here.
    fn is_expired(&mut self, found: &Object) -> bool {
        let version = found.metadata.resource_version.clone().unwrap_or_default();
        let lasts = found
            .spec
            .as_ref()
            .and_then(|it| u64::try_from(it.lease_duration_seconds?).ok())
            .map_or(DURATION, Duration::from_secs)
            .clamp(DURATION, LONGEST);
        match &self.seen {
            Some((seen, since)) if *seen == version => since.elapsed() >= lasts,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    /// Writes the lease as ours, if it is still as it was read.
    async fn write(&mut self, object: Object) -> Result<Attempt> {
        match self.send(object).await {
            Ok((sent, object)) => {
                self.seen = None;
                Ok(Attempt::Taken(sent, object))
            }
            Err(fault)
                if fault.is_conflict()
                    || fault.is_already_exists()
                    || fault.is_not_found()
                    || fault.is_lost() =>
            {
                Ok(Attempt::Again(fault))
            }
            Err(fault) => Err(fault.into_error()),
        }
    }

    async fn send(&mut self, mut object: Object) -> Result<(Moment, Box<Object>), Fault> {
        let sent = Moment::now();
        // The server keeps microseconds: what it gives back has to be equal to what was sent.
        let micros = Timestamp::now().as_microsecond();
        let now = MicroTime(Timestamp::from_microsecond(micros).unwrap_or_default());
        let me = self.me.to_string();
        let spec = object.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(me.as_str()) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(me);
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now.clone());
        self.sent.push(now.clone());
        let parameters = PostParams::default();
        let written = match object.metadata.resource_version {
            None => {
                self.access
                    .call_within(
                        CALL,
                        format!("make the Lease `{}`", self.name),
                        self.api.create(&parameters, &object),
                    )
                    .await?
            }
            Some(_) => {
                self.access
                    .call_within(
                        CALL,
                        format!("renew the Lease `{}`", self.name),
                        self.api.replace(&self.name, &parameters, &object),
                    )
                    .await?
            }
        };
        self.sent = vec![now];
        Ok((sent, Box::new(written)))
    }

    async fn renew(&mut self) -> Renewal {
        let Some(object) = self.object.clone() else {
            return Renewal::Look(None);
        };
        match self.send(*object).await {
            Ok((sent, object)) => Renewal::Renewed(sent, object),
            Err(fault) => Renewal::Look(Some(fault)),
        }
    }

    /// Renews, and takes it again where it was lost, until it is not wanted any more.
    pub(crate) async fn keep(
        mut self,
        shared: Arc<Shared>,
        mut closing: watch::Receiver<()>,
        mut stopped: watch::Receiver<()>,
    ) {
        let mut pause = RENEW;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Each changes by its end.
                _ = closing.changed() => break,
                _ = stopped.changed() => break,
            }
            // A renewal that is cut off in the middle is one more that nobody knows the end of: it is let end.
            pause = self.beat(&shared).await;
        }
        shared.give_up();
        self.release().await;
    }

    /// One renewal, or one look at a lease that is not ours; how long to wait for the next.
    async fn beat(&mut self, shared: &Shared) -> Duration {
        let fault = match self.renew().await {
            Renewal::Renewed(sent, object) => {
                self.object = Some(object);
                shared.renewed(sent);
                return RENEW;
            }
            Renewal::Look(fault) => fault,
        };
        if let Some(fault) = fault
            && (fault.is_away() || fault.is_lost())
        {
            shared.failed(fault.into_error());
            // The same lease once more: whether the last renewal was done shows by the version.
            return AGAIN;
        }
        self.object = None;
        match self.attempt().await {
            Ok(Attempt::Taken(sent, object)) => {
                self.object = Some(object);
                shared.renewed(sent);
                RENEW
            }
            Ok(Attempt::Again(_)) => SOON,
            Ok(Attempt::Busy(by)) => {
                shared.lost(by);
                RENEW
            }
            Err(failure) => {
                shared.failed(failure);
                AGAIN
            }
        }
    }

    /// Gives it back, if it is still ours.
    async fn release(&mut self) {
        let Some(mut object) = self.object.take() else {
            return;
        };
        if let Some(spec) = &mut object.spec {
            spec.holder_identity = Some(String::new());
        }
        let released = self
            .access
            .call_within(
                CALL,
                format!("give back the Lease `{}`", self.name),
                self.api
                    .replace(&self.name, &PostParams::default(), &object),
            )
            .await;
        if let Err(fault) = released {
            tracing::debug!(lease = self.name, "{fault}");
        }
    }
}

/// A holder as people read it.
pub(crate) fn shown(holder: &str) -> String {
    match holder.parse::<Holder>() {
        Ok(it) => format!("process {} on `{}`", it.pid, printable(&it.host)),
        Err(()) => format!("`{}`", printable(holder)),
    }
}
