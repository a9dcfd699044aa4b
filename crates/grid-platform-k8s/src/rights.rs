//! What the adapter has to be allowed: one table, which the probe asks the server by and `role.yaml` is held to.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};

use crate::{access::Access, error::Fault, refusal};

/// How many rights are asked for at once.
const AT_ONCE: usize = 8;

/// What is needed of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) group: &'static str,
    /// With its part: `pods/log`.
    pub(crate) resource: &'static str,
    pub(crate) verbs: &'static [&'static str],
    /// What is missing without it; `None` where no node can run then.
    pub(crate) without: Option<&'static str>,
}

const fn right(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
) -> Right {
    Right {
        group,
        resource,
        verbs,
        without: None,
    }
}

/// All that the adapter asks for, all of it in its own namespace.
pub(crate) const RIGHTS: [Right; 9] = [
    right("", "configmaps", &["get", "create", "update"]),
    right("", "secrets", &["get", "list", "create", "delete"]),
    right(
        "",
        "persistentvolumeclaims",
        &["get", "list", "watch", "create", "patch", "delete"],
    ),
    right("", "pods", &["get", "list", "watch", "create", "delete"]),
    right("", "pods/log", &["get"]),
    right("", "services", &["get", "list", "create", "delete"]),
    right("", "events", &["list", "watch"]),
    right(
        "coordination.k8s.io",
        "leases",
        &["get", "create", "update"],
    ),
    Right {
        group: "metrics.k8s.io",
        resource: "pods",
        verbs: &["get"],
        without: Some("what nodes use is unknown"),
    },
];

/// A right that the server does not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) right: Right,
    pub(crate) verb: &'static str,
}

impl Missing {
    /// `create pods`, as people say it.
    pub(crate) fn shown(&self) -> String {
        match self.right.group {
            "" => format!("{} {}", self.verb, self.right.resource),
            group => format!("{} {}.{group}", self.verb, self.right.resource),
        }
    }

    /// How it is given.
    pub(crate) fn mend(&self, namespace: &str) -> String {
        refusal::mend(self.right.group, self.right.resource, self.verb, namespace)
    }
}

/// The rights that the server says are missing, in the table's order.
///
/// # Errors
/// The server's refusal to say so.
pub(crate) async fn missing(access: &Access) -> Result<Vec<Missing>, Fault> {
    let mut questions = Vec::new();
    for right in RIGHTS {
        for verb in right.verbs.iter().copied() {
            questions.push(ask(access, right, verb));
        }
    }
    let answers: Vec<Option<Missing>> = stream::iter(questions)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn ask(access: &Access, right: Right, verb: &'static str) -> Result<Option<Missing>, Fault> {
    let (resource, part) = match right.resource.split_once('/') {
        Some((resource, part)) => (resource, Some(part.to_owned())),
        None => (right.resource, None),
    };
    let question = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(access.namespace.clone()),
                group: Some(right.group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: part,
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(access.client.clone());
    let what = format!("ask whether `{verb} {}` is allowed", right.resource);
    let answer = access
        .call(what, api.create(&PostParams::default(), &question))
        .await?;
    let is_given = answer.status.is_some_and(|it| it.allowed);
    Ok((!is_given).then_some(Missing { right, verb }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file says what the table says: nothing is missing, and nothing is given beyond it.
    #[test]
    fn the_role_is_the_table() {
        let text = include_str!("../../../deploy/kubernetes/role.yaml");
        let role = text
            .split("\n---\n")
            .find(|it| it.contains("\nkind: Role\n"))
            .unwrap();
        let written: String = role
            .lines()
            .filter(|it| !it.trim_start().starts_with('#'))
            .fold(String::new(), |all, line| all + line + "\n");
        let (_, rules) = written.split_once("\nrules:\n").unwrap();
        let mut expected = String::new();
        for Right {
            group,
            resource,
            verbs,
            ..
        } in RIGHTS
        {
            let verbs = verbs.join(", ");
            expected.push_str(&format!(
                "  - apiGroups: [\"{group}\"]\n    resources: [{resource}]\n    verbs: [{verbs}]\n"
            ));
        }
        assert_eq!(rules.trim_end(), expected.trim_end());
    }

    #[test]
    fn a_missing_right_names_its_mend() {
        let missing = Missing {
            right: RIGHTS[7],
            verb: "update",
        };
        assert_eq!(missing.shown(), "update leases.coordination.k8s.io");
        assert_eq!(
            missing.mend("sutra-grid"),
            "`kubectl apply -n sutra-grid -f deploy/kubernetes/role.yaml` gives every right that is needed; this one is the rule `{apiGroups: [\"coordination.k8s.io\"], resources: [\"leases\"], verbs: [\"update\"]}`."
        );
    }
}
