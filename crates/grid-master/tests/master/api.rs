//! The HTTP API's edges: who may what, what is malformed, and its description.

use serde_json::{Value, json};

use crate::support::{Agent, Grid};

/// Every route, with a role that may not use it where there is one.
const ROUTES: [(&str, &str, bool); 24] = [
    // (method, path, for admins only)
    ("POST", "/api/grid/spawn", true),
    ("GET", "/api/grid/nodes", false),
    ("GET", "/api/grid/nodes/{id}", false),
    ("PUT", "/api/grid/nodes/{id}", true),
    ("DELETE", "/api/grid/nodes/{id}", true),
    ("POST", "/api/grid/nodes/{id}/start", true),
    ("POST", "/api/grid/nodes/{id}/stop", true),
    ("GET", "/api/grid/nodes/{id}/usage", false),
    ("GET", "/api/grid/nodes/{id}/logs", false),
    ("GET", "/api/grid/data", false),
    ("DELETE", "/api/grid/data/{id}", true),
    ("GET", "/api/grid/agents", false),
    ("GET", "/api/grid/agents/{id}", false),
    ("POST", "/api/grid/agents/{id}/cordon", true),
    ("POST", "/api/grid/agents/{id}/uncordon", true),
    ("GET", "/api/grid/tokens", true),
    ("POST", "/api/grid/tokens", true),
    ("DELETE", "/api/grid/tokens/{id}", true),
    ("GET", "/api/grid/events", false),
    ("GET", "/api/grid/version", false),
    ("GET", "/metrics", false),
    ("GET", "/healthz", false),
    ("GET", "/readyz", false),
    ("GET", "/openapi.json", false),
];

/// Those that want no token.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

#[tokio::test]
async fn the_description_lists_every_route() {
    let grid = Grid::start().await;
    let api = grid.get("/openapi.json").await.expect(200);
    assert!(api["openapi"].as_str().unwrap().starts_with("3."));
    let mut described: Vec<(String, String)> = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.push((method.to_uppercase(), path.clone()));
        }
    }
    for (path, method, responses) in api["paths"].as_object().unwrap().iter().flat_map(|(p, i)| {
        let operations = i.as_object().unwrap().iter();
        operations.map(move |(m, o)| (p, m, &o["responses"]))
    }) {
        for (status, response) in responses.as_object().unwrap() {
            let said = response["description"].as_str().unwrap_or_default();
            assert!(!said.is_empty(), "{method} {path} {status}");
        }
    }
    described.sort();
    let mut expect: Vec<(String, String)> = ROUTES
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    expect.sort();
    assert_eq!(described, expect);
    // Every reference leads somewhere.
    let mut references = Vec::new();
    collect_references(&api, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(api.pointer(pointer).is_some(), "{reference}");
    }
    let spawn = &api["components"]["schemas"]["SpawnRequest"].to_string();
    for field in ["agent_id", "port", "memory_limit_mb", "storage_path"] {
        assert!(
            api["components"]["schemas"].to_string().contains(field),
            "{spawn}"
        );
    }
    grid.end().await;
}

fn collect_references(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("$ref", Value::String(text)) => into.push(text.clone()),
                    _ => collect_references(value, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, into)),
        _ => {}
    }
}

#[tokio::test]
async fn every_route_wants_a_token_of_its_role() {
    let grid = Grid::start().await;
    let client = reqwest::Client::new();
    for (method, path, admins_only) in ROUTES {
        let url = format!("{}{}", grid.http, path.replace("{id}", "x"));
        let send = |token: Option<String>| {
            let request = client.request(method.parse().unwrap(), &url).body("{}");
            grid.send(match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            })
        };
        if OPEN.contains(&path) {
            send(None).await.expect(200);
            continue;
        }
        send(None).await.error(401);
        send(Some("admin-000000000000.0".into())).await.error(401);
        let truncated: String = grid.token("admin").chars().take(30).collect();
        send(Some(truncated)).await.error(401);
        send(Some(grid.token("agent"))).await.error(403);
        if admins_only {
            let why = send(Some(grid.token("read"))).await.error(403);
            assert_eq!(why, "a token of the role `read` may not do this");
        }
    }
    grid.end().await;
}

#[tokio::test]
async fn every_error_is_json_and_says_where() {
    let grid = Grid::start().await;
    let post = async |body: &str| {
        let request = grid
            .request("POST", "/api/grid/spawn")
            .body(body.to_owned());
        grid.send(request).await
    };
    let why = post("{\"node_id\": \"n1\",\n \"memory\": 1}")
        .await
        .error(400);
    assert!(
        why.contains("unknown field `memory`") && why.contains("line 2 column"),
        "{why}"
    );
    let answer = post(r#"{"memory_limit": 1}"#).await;
    assert_eq!(
        answer.body["error"]["hint"],
        "Did you mean `memory_limit_mb` by `memory_limit`?"
    );
    // As `curl -d` sends it: it is read, and refused only for want of an agent.
    let form = grid
        .request("POST", "/api/grid/spawn")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(r#"{"agent_id": "a", "port": 50051, "memory_limit_mb": 2048}"#);
    grid.send(form).await.error(404);
    let why = post("{\n\"port\": }").await.error(400);
    assert!(
        why.contains("not JSON") && why.contains("line 2 column 9"),
        "{why}"
    );
    let why = post("{\"port\": 70000}").await.error(400);
    assert!(why.contains("70000"), "{why}");
    let why = post("{\"memory_limit_mb\": -1}").await.error(400);
    assert!(why.contains("-1"), "{why}");
    let why = post("{\"node_id\": \"../etc\"}").await.error(400);
    assert!(why.contains("../etc"), "{why}");
    post("[]").await.error(400);
    post("").await.error(400);
    post("\u{0}").await.error(400);
    post(&format!(
        "{{\"labels\": {{\"a\": \"{}\"}}}}",
        "x".repeat(2 << 20)
    ))
    .await
    .error(413);

    grid.get("/nothing/here").await.error(404);
    grid.get("/api/grid/nodes/UPPER").await.error(400);
    grid.get("/api/grid/nodes/..%2f..%2fetc").await.error(400);
    grid.get("/api/grid/nodes/%ff").await.error(400);
    grid.get("/api/grid/nodes/none").await.error(404);
    grid.call("PATCH", "/api/grid/nodes", json!({}))
        .await
        .error(405);
    grid.call("POST", "/healthz", json!({})).await.error(405);
    let why = grid.get("/api/grid/nodes?stat=running").await.error(400);
    assert!(why.contains("stat"), "{why}");
    grid.get("/api/grid/nodes?state=dancing").await.error(400);
    grid.get("/api/grid/nodes/none/logs?cursor=middle")
        .await
        .error(400);
    grid.get("/api/grid/events?after=-1").await.error(400);
    let request = grid
        .request("GET", "/api/grid/events")
        .header("Last-Event-ID", "x");
    grid.send(request).await.error(400);
    for key in ["", "a\tb"] {
        let request = grid
            .request("POST", "/api/grid/spawn")
            .header("Idempotency-Key", key)
            .json(&json!({}));
        grid.send(request).await.error(400);
    }
    grid.end().await;
}

#[tokio::test]
async fn lists_are_filtered() {
    let grid = Grid::start().await;
    let mut a = Agent::join(&grid, "a").await;
    let _b = Agent::join(&grid, "b").await;
    for (id, agent) in [("n2", "a"), ("n1", "b"), ("n3", "b")] {
        grid.spawn(json!({"node_id": id, "agent_id": agent}))
            .await
            .expect(201);
    }
    a.obey().await;
    grid.until_state("n2", "running").await;
    let ids = async |query: &str| -> Vec<String> {
        let nodes = grid
            .get(&format!("/api/grid/nodes{query}"))
            .await
            .expect(200);
        let nodes = nodes.as_array().unwrap().iter();
        nodes
            .map(|n| n["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("").await, ["n1", "n2", "n3"]);
    assert_eq!(ids("?agent=b").await, ["n1", "n3"]);
    assert_eq!(ids("?state=running").await, ["n2"]);
    assert_eq!(ids("?agent=b&state=running").await, [""; 0]);
    grid.end().await;
}

#[tokio::test]
async fn tokens_are_made_used_and_deleted() {
    let grid = Grid::start().await;
    let made = grid
        .call(
            "POST",
            "/api/grid/tokens",
            json!({"role": "read", "note": "for the dashboard"}),
        )
        .await
        .expect(201);
    let value = made["value"].as_str().unwrap();
    let list = async |token: &str| {
        let url = format!("{}/api/grid/nodes", grid.http);
        grid.send(reqwest::Client::new().get(url).bearer_auth(token))
            .await
    };
    list(value).await.expect(200);
    let listed = grid.get("/api/grid/tokens").await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let secret = value.split_once('.').unwrap().1;
    assert!(!listed.to_string().contains(secret));
    let path = format!("/api/grid/tokens/{}", made["id"].as_str().unwrap());
    grid.call("DELETE", &path, json!({})).await.expect(204);
    list(value).await.error(401);
    grid.call("DELETE", &path, json!({})).await.error(404);
    // The last key stays in the house.
    let admin = grid.token("admin");
    let path = format!("/api/grid/tokens/{}", admin.split_once('.').unwrap().0);
    grid.call("DELETE", &path, json!({})).await.error(409);
    grid.end().await;
}

#[tokio::test]
async fn secrets_are_nowhere_to_be_seen() {
    let grid = Grid::start().await;
    let _agent = Agent::join(&grid, "a").await;
    let sentinel = "s3ntinel-s3cret-value";
    let request = grid
        .request("POST", "/api/grid/spawn")
        .header("Idempotency-Key", "k");
    let answer = grid
        .send(request.json(&json!({"node_id": "n1", "secrets": {"key": sentinel}})))
        .await
        .expect(201);
    assert!(!answer.to_string().contains(sentinel));
    for path in [
        "/api/grid/nodes",
        "/api/grid/events?follow=false",
        "/metrics",
    ] {
        let body = grid.get(path).await.expect(200);
        assert!(!body.to_string().contains(sentinel), "{path}");
    }
    let state = grid.state.clone();
    let admin = grid.token("admin");
    let secret = admin.split_once('.').unwrap().1.to_owned();
    // Ends first, so that everything is on the disk.
    let dir = grid.restart().await;
    let store = std::fs::read(state.join("store.redb")).unwrap();
    for hidden in [sentinel, &secret] {
        let found = store.windows(hidden.len()).any(|w| w == hidden.as_bytes());
        assert!(!found, "{hidden}");
    }
    dir.end().await;
}

#[tokio::test]
async fn it_measures_itself() {
    let grid = Grid::start().await;
    let mut agent = Agent::join(&grid, "a").await;
    grid.spawn(json!({"node_id": "n1"})).await.expect(201);
    agent.obey().await;
    grid.until_state("n1", "running").await;
    let text = grid.get("/metrics").await.expect(200);
    let text = text.as_str().unwrap();
    for line in [
        "grid_master_nodes{state=\"running\"} 1",
        "grid_master_agents{state=\"ready\"} 1",
        "grid_master_store_revision 1",
        "grid_master_requests_total{method=\"POST\",route=\"/api/grid/spawn\",status=\"201\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    grid.get("/readyz").await.expect(200);
    let version = grid.get("/api/grid/version").await.expect(200);
    assert_eq!(
        (&version["epoch"], &version["revision"]),
        (&json!(1), &json!(1))
    );
    grid.end().await;
}
