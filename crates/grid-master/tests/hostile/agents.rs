//! Agents that are not who they say, or not of this time.

use grid_proto::v1;
use tonic::{Code, Status};

use crate::{
    support::{Agent, hello},
    target::{Target, honest},
};

async fn refused(target: &Target, token: &str, hello: v1::Hello) -> Status {
    let status = Agent::connect(&target.grid, token, hello)
        .await
        .map(drop)
        .unwrap_err();
    assert!(status.message().contains("hint: "), "{status:?}");
    assert!(!status.message().contains(token), "{status:?}");
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another_agent() {
    let mut target = Target::start().await;
    let own = target.agent.token.clone();
    let other = target.agent_token().await;
    // The honest agent's id from another install, by its own token and by another's.
    let status = refused(&target, &own, hello("honest", "install-evil")).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let status = refused(&target, &other, hello("honest", "install-evil")).await;
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    // Its state directory, copied, beside it and under another name.
    let status = refused(&target, &other, hello("copy", "install-honest")).await;
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(status.message().contains("`honest`"), "{status:?}");
    // An unknown token says nothing of whom it is tried for.
    for token in ["", "x", &own[..own.len() - 1], &format!("{own}x")] {
        let status = Agent::connect(&target.grid, token, honest())
            .await
            .map(drop)
            .unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{token}: {status:?}");
        assert!(!status.message().contains("honest"), "{status:?}");
    }
    for role in ["admin", "read"] {
        let status = Agent::connect(&target.grid, &target.grid.token(role), honest()).await;
        let status = status.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{role}: {status:?}");
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_other_versions_and_other_grids_are_told_so() {
    let mut target = Target::start().await;
    let token = target.agent_token().await;
    for protocol in [0, grid_proto::PROTOCOL + 1, u32::MAX] {
        let hello = v1::Hello {
            protocol,
            ..hello("stranger", "install-stranger")
        };
        let status = refused(&target, &token, hello).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(
            status
                .message()
                .contains("Run agent and master of one version"),
            "{status:?}"
        );
    }
    let foreign = v1::Hello {
        grid_id: "another-grid".into(),
        epoch: 1,
        revision: 1,
        ..hello("stranger", "install-stranger")
    };
    let status = refused(&target, &token, foreign).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_says_of_itself_has_bounds() {
    let mut target = Target::start().await;
    let token = target.agent_token().await;
    let long = "x".repeat(70_000);
    let base = || hello("stranger", "install-stranger");
    for hello in [
        v1::Hello {
            agent_id: String::new(),
            ..base()
        },
        v1::Hello {
            agent_id: "a\nb".into(),
            ..base()
        },
        v1::Hello {
            agent_id: "../a".into(),
            ..base()
        },
        v1::Hello {
            agent_id: "\u{1b}[2J".into(),
            ..base()
        },
        v1::Hello {
            agent_id: "a".repeat(64),
            ..base()
        },
        v1::Hello {
            install_id: String::new(),
            ..base()
        },
        v1::Hello {
            install_id: long.clone(),
            ..base()
        },
        v1::Hello {
            version: long.clone(),
            ..base()
        },
        v1::Hello {
            capabilities_json: "{".into(),
            ..base()
        },
        v1::Hello {
            default_program_json: "[".repeat(10_000),
            ..base()
        },
        v1::Hello {
            labels: [("k".to_owned(), long.clone())].into(),
            ..base()
        },
    ] {
        let status = refused(&target, &token, hello).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        let words = status.message().lines().next().unwrap();
        assert!(
            words.len() < 300 && !words.contains(char::is_control),
            "{words:?}"
        );
    }
    target.must_be_unharmed().await;
}
