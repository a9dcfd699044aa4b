use hyper::Method;
use serde_json::{Value, json};

use super::*;
use crate::fake::{Fake, NAMESPACE, Upset};

const NAME: &str = "sutra-grid.default";

fn config() -> KubernetesConfig {
    KubernetesConfig::new(NAMESPACE)
}

async fn open(fake: &Fake) -> Result<Install> {
    Install::open(&fake.access(), &config()).await
}

async fn refusal(fake: &Fake) -> (ErrorKind, String, String) {
    let error = open(fake).await.unwrap_err();
    let hint = error.hint().unwrap().to_owned();
    (error.kind(), error.to_string(), hint)
}

fn claim(fake: &Fake, owner: &OwnerId) {
    fake.edit("persistentvolumeclaims", "sutra-grid-a", |it| {
        it["metadata"]["labels"] = json!({
            "sutra.grid": "true", "sutra.install": "default", "sutra.owner": owner.to_string(),
        });
    });
}

fn same(one: &Install, other: &Install) -> bool {
    let digest = |it: &Install| {
        let config = grid_platform_api::SpawnConfig::builder(
            "a",
            grid_platform_api::Program::image("i", [""; 0]),
        )
        .secret("s", "one".into())
        .build()
        .unwrap();
        grid_platform_api::Digest::of(&config, &it.key)
    };
    one.owner == other.owner && digest(one) == digest(other)
}

#[tokio::test]
async fn an_installation_is_made_once() {
    let fake = Fake::default();
    let first = open(&fake).await.unwrap();
    assert!(same(&first, &open(&fake).await.unwrap()));
    let map = fake.get("configmaps", NAME).unwrap();
    assert_eq!(map["data"]["made_as"], map["metadata"]["uid"]);
    assert_eq!(map["data"]["owner"], first.owner.to_string());
    assert!(!format!("{first:?}").contains("key: DigestKey("));
}

#[tokio::test]
async fn openers_at_once_and_lost_answers_come_to_one_installation() {
    let fake = Fake::default();
    let (one, other) = tokio::join!(open(&fake), open(&fake));
    assert!(same(&one.unwrap(), &other.unwrap()));
    for upset in [Upset::Lost, Upset::Failed] {
        for method in [Method::POST, Method::PUT] {
            let fake = Fake::default();
            fake.upset(method, upset);
            let first = open(&fake).await.unwrap();
            assert!(same(&first, &open(&fake).await.unwrap()));
        }
    }
}

#[tokio::test]
async fn a_crash_between_the_two_calls_is_healed() {
    let fake = Fake::default();
    let first = open(&fake).await.unwrap();
    fake.edit("configmaps", NAME, |it| {
        it["data"].as_object_mut().unwrap().remove("made_as");
    });
    fake.delete("secrets", NAME);
    assert_eq!(open(&fake).await.unwrap().owner, first.owner);
    let map = fake.get("configmaps", NAME).unwrap();
    assert_eq!(map["data"]["made_as"], map["metadata"]["uid"]);
}

#[tokio::test]
async fn a_copy_is_refused_until_it_is_accepted() {
    let fake = Fake::default();
    let first = open(&fake).await.unwrap();
    fake.edit("configmaps", NAME, |it| {
        it["metadata"]["uid"] = "copy".into()
    });
    let (kind, message, hint) = refusal(&fake).await;
    assert_eq!(kind, ErrorKind::OwnedByOther);
    assert_eq!(
        message,
        "the ConfigMap `sutra-grid.default` in the namespace `grid` is a copy of another one"
    );
    assert_eq!(
        hint,
        "If the other one is not used any more, run `kubectl annotate configmap sutra-grid.default -n grid sutra.grid/accept-copy=yes` and start again; if it is, delete this copy."
    );
    fake.edit("configmaps", NAME, |it| {
        it["metadata"]["annotations"] = json!({"sutra.grid/accept-copy": "yes", "other": "stays"});
    });
    assert!(same(&first, &open(&fake).await.unwrap()));
    let map = fake.get("configmaps", NAME).unwrap();
    assert_eq!(map["metadata"]["annotations"], json!({"other": "stays"}));
    assert_eq!(map["data"]["made_as"], "copy");
}

#[tokio::test]
async fn nothing_is_made_anew_that_claims_are_there_of() {
    let fake = Fake::default();
    let first = open(&fake).await.unwrap();
    claim(&fake, &first.owner);
    let map = fake.get("configmaps", NAME).unwrap();
    fake.delete("configmaps", NAME);
    let (kind, message, hint) = refusal(&fake).await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(message.ends_with("is gone, and the claim `sutra-grid-a` of it is there"));
    assert!(
        hint.contains(&format!("--from-literal=owner={}`", first.owner)),
        "{hint}"
    );
    // What the hint says mends it.
    fake.edit("configmaps", NAME, |it| {
        it["data"] = json!({"version": "1", "owner": first.owner.to_string()});
        it["metadata"]["labels"] = map["metadata"]["labels"].clone();
    });
    assert!(same(&first, &open(&fake).await.unwrap()));

    fake.delete("secrets", NAME);
    let (kind, message, _) = refusal(&fake).await;
    assert_eq!(kind, ErrorKind::Corrupt);
    assert!(message.contains("the Secret `sutra-grid.default` in the namespace `grid` is gone"));
    assert!(fake.get("secrets", NAME).is_none());
}

#[tokio::test]
async fn a_key_of_an_installation_that_is_gone_is_made_anew() {
    let fake = Fake::default();
    let first = open(&fake).await.unwrap();
    fake.delete("configmaps", NAME);
    let second = open(&fake).await.unwrap();
    assert_ne!(first.owner, second.owner);
    assert!(same(&second, &open(&fake).await.unwrap()));
}

#[tokio::test]
async fn others_objects_and_damage_are_left_alone() {
    for resource in ["configmaps", "secrets"] {
        let fake = Fake::default();
        fake.edit(resource, NAME, |it| it["data"] = json!({"a": "Yg=="}));
        let before = fake.get(resource, NAME);
        assert_eq!(refusal(&fake).await.0, ErrorKind::OwnedByOther);
        assert_eq!(fake.get(resource, NAME), before);
    }
    for (field, value) in [("version", "2"), ("owner", "me")] {
        let fake = Fake::default();
        open(&fake).await.unwrap();
        fake.edit("configmaps", NAME, |it| it["data"][field] = value.into());
        let before: Option<Value> = fake.get("configmaps", NAME);
        assert_eq!(refusal(&fake).await.0, ErrorKind::Corrupt);
        assert_eq!(fake.get("configmaps", NAME), before);
    }
}
