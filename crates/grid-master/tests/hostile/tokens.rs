//! Wrong, missing, truncated and deleted tokens, and tokens of the wrong role, on every route that the description lists:
//! a new route is tried without a word here.

use serde_json::{Value, json};

use crate::{clients::says_why, support::Grid, target::Target};

/// A route of the description.
struct Route {
    method: String,
    path: String,
    /// It wants no token.
    open: bool,
}

impl Route {
    /// Only an admin may: everything that changes something, and who has tokens.
    fn for_admins(&self) -> bool {
        self.method != "GET" || self.path.starts_with("/api/grid/tokens")
    }
}

async fn routes(target: &Target) -> Vec<Route> {
    let api = target.get("/openapi.json").await;
    let mut routes = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            routes.push(Route {
                method: method.to_uppercase(),
                path: path.replace("{id}", "x1"),
                open: operation["security"] == json!([{}]),
            });
        }
    }
    assert!(routes.len() > 20, "the description lost its routes");
    let open = |route: &&Route| route.open;
    let open: Vec<&str> = routes
        .iter()
        .filter(open)
        .map(|r| r.path.as_str())
        .collect();
    assert_eq!(open, ["/healthz", "/openapi.json", "/readyz"]);
    routes
}

/// The status of a request with this `authorization`, and its body where it is an error.
async fn send(target: &Target, route: &Route, header: Option<&[u8]>) -> (u16, String) {
    let url = format!("http://{}{}", target.http, route.path);
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let mut request = client
        .request(route.method.parse().unwrap(), url)
        .body("{}");
    if let Some(header) = header {
        let value = reqwest::header::HeaderValue::from_bytes(header).unwrap();
        request = request.header("authorization", value);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    if status == 401 {
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer"), "{challenge}");
    }
    // Events that are followed have no end.
    let body = match status {
        200 => String::new(),
        _ => response.text().await.unwrap(),
    };
    (status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_route_is_open_to_who_has_no_token_of_its_role() {
    let target = Target::start().await;
    let foreign = Grid::start().await;
    let admin = target.grid.token("admin");
    let (id, secret) = admin.split_once('.').unwrap();
    let deleted = {
        let made = target
            .grid
            .call("POST", "/api/grid/tokens", json!({"role": "admin"}))
            .await
            .expect(201);
        let path = format!("/api/grid/tokens/{}", made["id"].as_str().unwrap());
        target
            .grid
            .call("DELETE", &path, Value::Null)
            .await
            .expect(204);
        made["value"].as_str().unwrap().to_owned()
    };
    let flipped = {
        let last = if secret.ends_with('0') { "1" } else { "0" };
        format!("{id}.{}{last}", &secret[..secret.len() - 1])
    };
    let wrong: Vec<(&str, Vec<u8>)> = [
        ("empty", String::new()),
        ("a scheme alone", "Bearer".to_owned()),
        ("a scheme and nothing", "Bearer ".to_owned()),
        ("no scheme", admin.clone()),
        ("another scheme", format!("Basic {admin}")),
        ("no secret", format!("Bearer {id}.")),
        ("no id", format!("Bearer .{secret}")),
        ("the id alone", format!("Bearer {id}")),
        ("truncated", format!("Bearer {}", &admin[..admin.len() - 1])),
        ("longer", format!("Bearer {admin}0")),
        ("one digit wrong", format!("Bearer {flipped}")),
        ("in capitals", format!("Bearer {}", admin.to_uppercase())),
        ("two", format!("Bearer {admin}, Bearer {admin}")),
        (
            "the hash for the secret",
            format!("Bearer {id}.{}", "0".repeat(64)),
        ),
        (
            "of another grid",
            format!("Bearer {}", foreign.token("admin")),
        ),
        ("deleted", format!("Bearer {deleted}")),
        ("a path", "Bearer ../tokens/admin.x".to_owned()),
        ("long", format!("Bearer a.{}", "x".repeat(8000))),
    ]
    .map(|(what, text)| (what, text.into_bytes()))
    .into_iter()
    .chain([("not UTF-8", b"Bearer \xff\xfe.\xff".to_vec())])
    .collect();
    let bearer = |role: &str| format!("Bearer {}", target.grid.token(role)).into_bytes();
    let (agent, read, admin) = (bearer("agent"), bearer("read"), bearer("admin"));
    for route in routes(&target).await {
        let place = format!("{} {}", route.method, route.path);
        if route.open {
            assert_eq!(send(&target, &route, None).await.0, 200, "{place}");
            // A wrong token is no worse than none.
            assert_eq!(send(&target, &route, Some(&wrong[0].1)).await.0, 200);
            continue;
        }
        let (status, body) = send(&target, &route, None).await;
        assert_eq!(
            (status, says_why(&body).as_str()),
            (401, "a token is wanted"),
            "{place}"
        );
        for (what, header) in &wrong {
            let (status, body) = send(&target, &route, Some(header)).await;
            assert_eq!(status, 401, "{place}: {what}");
            let why = says_why(&body);
            assert!(!why.contains(secret), "{why}");
        }
        let (status, body) = send(&target, &route, Some(&agent)).await;
        assert_eq!(status, 403, "{place}");
        assert_eq!(
            says_why(&body),
            "a token of the role `agent` may not do this"
        );
        let (status, body) = send(&target, &route, Some(&read)).await;
        assert_eq!(
            status == 403,
            route.for_admins(),
            "{place}: {status} {body}"
        );
        // Whoever may, gets past the door.
        if route.method == "GET" {
            let (status, body) = send(&target, &route, Some(&admin)).await;
            assert!(![401, 403].contains(&status), "{place}: {status} {body}");
        }
    }
    foreign.end().await;
    target.must_be_unharmed().await;
}

/// Not one character less opens the door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_a_token_is_a_token() {
    let target = Target::start().await;
    let admin = target.grid.token("admin");
    let url = format!("http://{}/api/grid/nodes", target.http);
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    for length in 0..=admin.len() {
        let request = client.get(&url).bearer_auth(&admin[..length]);
        let expect = if length == admin.len() { 200 } else { 401 };
        assert_eq!(target.grid.send(request).await.status, expect, "{length}");
    }
    // Two headers are not one that may be right.
    for (first, second) in [(admin.as_str(), "x.y"), ("x.y", admin.as_str())] {
        let request = client.get(&url).bearer_auth(first).bearer_auth(second);
        assert_eq!(target.grid.send(request).await.status, 401);
    }
    target.must_be_unharmed().await;
}
