//! Licences, sources and bans, by `deny.toml`: the part of `cargo deny` that `cargo metadata` can show.

use toml::{Table, Value};

use super::Finding;
use super::graph::{Graph, Kind};

/// What cargo-deny allows when `[sources] allow-registry` is left out.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks the graph against the text of `deny.toml`.
pub(super) fn check(graph: &Graph, deny: Option<&str>) -> Vec<Finding> {
    let policy = match deny.map(str::parse::<Table>) {
        Some(Ok(policy)) => policy,
        Some(Err(error)) => {
            return vec![Finding::new(
                "deny.toml",
                format!("cannot be read: {}", error.message()),
            )];
        }
        None => return vec![Finding::new("deny.toml", "is not there")],
    };
    let mut findings = licenses(graph, &policy);
    findings.extend(sources(graph));
    findings.extend(bans(graph, &policy));
    findings
}

fn licenses(graph: &Graph, policy: &Table) -> Vec<Finding> {
    let allow = strings(policy.get("licenses").and_then(|table| table.get("allow")));
    let mut findings = Vec::new();
    for package in &graph.packages {
        let place = format!("{} {}", package.name, package.version);
        match &package.license {
            None => findings.push(Finding::new(place, "states no licence")),
            Some(expression) if !is_allowed(expression, &allow) => {
                findings.push(Finding::new(
                    place,
                    format!("has the licence `{expression}`, which deny.toml does not allow"),
                ));
            }
            Some(_) => {}
        }
    }
    findings
}

fn sources(graph: &Graph) -> Vec<Finding> {
    let foreign = graph.packages.iter().filter_map(|package| {
        let source = package.source.as_deref()?;
        let what = || format!("comes from `{source}`, and only crates.io is allowed");
        (source != CRATES_IO)
            .then(|| Finding::new(format!("{} {}", package.name, package.version), what()))
    });
    foreign.collect()
}

fn bans(graph: &Graph, policy: &Table) -> Vec<Finding> {
    let bans = policy
        .get("bans")
        .and_then(|bans| bans.get("deny"))
        .and_then(Value::as_array);
    let mut findings = Vec::new();
    for ban in bans.into_iter().flatten() {
        let Some(name) = ban.get("crate").and_then(Value::as_str) else {
            findings.push(Finding::new("deny.toml", "has a ban with no `crate`"));
            continue;
        };
        let wrappers = strings(ban.get("wrappers"));
        let reason = ban
            .get("reason")
            .and_then(Value::as_str)
            .unwrap_or("it is banned");
        for package in graph
            .packages
            .iter()
            .filter(|package| !wrappers.contains(&package.name.as_str()))
        {
            let uses = |(to, kind): &(usize, Kind)| {
                graph.packages[*to].name == name && (*kind != Kind::Dev || package.member)
            };
            if package.dependencies.iter().any(uses) {
                findings.push(Finding::new(
                    &package.name,
                    format!("depends on `{name}`: {reason}"),
                ));
            }
        }
    }
    findings
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is the older way to write `OR`.
fn is_allowed(expression: &str, allow: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let met = either(&mut rest, allow);
    met && rest.is_empty()
}

fn either(rest: &mut &[&str], allow: &[&str]) -> bool {
    let mut met = both(rest, allow);
    while take(rest, "OR") {
        // Both sides are read, whatever the first one says.
        met |= both(rest, allow);
    }
    met
}

fn both(rest: &mut &[&str], allow: &[&str]) -> bool {
    let mut met = one(rest, allow);
    while take(rest, "AND") {
        met &= one(rest, allow);
    }
    met
}

fn one(rest: &mut &[&str], allow: &[&str]) -> bool {
    if take(rest, "(") {
        let met = either(rest, allow);
        return take(rest, ")") && met;
    }
    let Some((name, after)) = rest.split_first() else {
        return false;
    };
    *rest = after;
    if take(rest, "WITH") {
        let Some((exception, after)) = rest.split_first() else {
            return false;
        };
        *rest = after;
        return allow.contains(&format!("{name} WITH {exception}").as_str());
    }
    allow.contains(name)
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    match rest.split_first() {
        Some((first, after)) if *first == word => {
            *rest = after;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_or_not() {
        let allow = ["MIT", "Apache-2.0", "Unicode-3.0"];
        let check = |expression: &str, expect: bool| {
            assert_eq!(is_allowed(expression, &allow), expect, "{expression}");
        };
        check("MIT", true);
        check("MIT/Apache-2.0", true);
        check("LGPL-2.1 OR MIT", true);
        check("(MIT OR GPL-3.0) AND Unicode-3.0", true);
        check("MIT AND GPL-3.0", false);
        check("(MIT OR Apache-2.0) AND GPL-3.0", false);
        check("Apache-2.0 WITH LLVM-exception OR GPL-3.0", false);
        check("Apache-2.0 WITH LLVM-exception OR MIT", true);
        check("GPL-3.0", false);
        check("(MIT", false);
        check("MIT garbage", false);
        check("", false);
    }

    const DENY: &str = "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [\n\
        { crate = \"openssl\", reason = \"use rustls\" }, { crate = \"kube\", wrappers = [\"grid-platform-k8s\"] }]";

    fn found(mut graph: Graph, change: impl Fn(&mut Graph)) -> Vec<Finding> {
        for package in &mut graph.packages {
            package.license = Some("MIT".into());
            package.source = (!package.member).then(|| CRATES_IO.into());
        }
        change(&mut graph);
        check(&graph, Some(DENY))
    }

    #[test]
    fn bans_hold_but_for_their_wrappers() {
        let graph = || Graph::of(&[("grid-platform-k8s", &["kube"])]);
        assert_eq!(found(graph(), |_| {}), []);
        let agent = Graph::of(&[("grid-agent", &["kube", "tls"]), ("tls", &["openssl"])]);
        let found = found(agent, |_| {});
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].what.contains("use rustls") && found[1].place == "grid-agent");
    }

    #[test]
    fn licences_and_sources_are_looked_at() {
        let graph = || Graph::of(&[("a", &["b"])]);
        assert_eq!(
            found(graph(), |graph| graph.packages[1].license = None).len(),
            1
        );
        assert_eq!(
            found(graph(), |graph| graph.packages[1].license =
                Some("GPL-3.0".into()))
            .len(),
            1
        );
        assert_eq!(
            found(graph(), |graph| graph.packages[1].source =
                Some("git+https://x".into()))
            .len(),
            1
        );
        assert_eq!(check(&graph(), None).len(), 1);
        assert_eq!(check(&graph(), Some("[")).len(), 1);
    }
}
