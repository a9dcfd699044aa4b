//! Image references: whose registry an image is of, and which of its versions is meant. Pure.

/// The registry of images that name none, as people write it.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// The registry that a reference names: `host`, `host:port`, or Docker Hub.
pub(crate) fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _))
            if first.contains(['.', ':']) || first == "localhost" || has_capital(first) =>
        {
            first
        }
        _ => DOCKER_HUB,
    }
}

/// Docker takes a first part that is no repository's name for a host.
fn has_capital(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_uppercase())
}

/// The repository of a reference, and the tag or digest behind it. Without either it is `latest` that is meant:
/// an engine that is told nothing would fetch every tag.
pub(crate) fn split(reference: &str) -> (&str, &str) {
    if let Some((name, digest)) = reference.split_once('@') {
        // A tag beside a digest says nothing more.
        return (untagged(name), digest);
    }
    let name = untagged(reference);
    match reference.get(name.len() + 1..) {
        Some(tag) if !tag.is_empty() => (name, tag),
        _ => (name, "latest"),
    }
}

/// A reference without its tag. The `:` of a registry's port is none.
fn untagged(reference: &str) -> &str {
    let last = reference.rfind('/').map_or(0, |at| at + 1);
    match reference[last..].find(':') {
        Some(at) => &reference[..last + at],
        None => reference,
    }
}

/// Whether an allowed name covers a reference: the same text, or its repository without a version.
pub(crate) fn covers(allowed: &str, reference: &str) -> bool {
    allowed == reference || (split(reference).0 == allowed && untagged(allowed) == allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_registry_repository_and_version() {
        let check = |text: &str, host: &str, name: &str, version: &str| {
            assert_eq!(registry(text), host, "{text}");
            assert_eq!(split(text), (name, version), "{text}");
        };
        check("redis", "docker.io", "redis", "latest");
        check("redis:7", "docker.io", "redis", "7");
        check("team/app:1", "docker.io", "team/app", "1");
        check("localhost/x", "localhost", "localhost/x", "latest");
        check(
            "localhost:5000/x",
            "localhost:5000",
            "localhost:5000/x",
            "latest",
        );
        check(
            "localhost:5000/a/b:c",
            "localhost:5000",
            "localhost:5000/a/b",
            "c",
        );
        check("gcr.io/p/x@sha256:ab", "gcr.io", "gcr.io/p/x", "sha256:ab");
        check(
            "gcr.io/p/x:1@sha256:ab",
            "gcr.io",
            "gcr.io/p/x",
            "sha256:ab",
        );
        check("redis:", "docker.io", "redis", "latest");
        check("[::1]:5000/x:1", "[::1]:5000", "[::1]:5000/x", "1");
    }

    #[test]
    fn an_allowed_name_covers_itself_and_its_versions() {
        let check = |allowed: &str, reference: &str, expect: bool| {
            assert_eq!(covers(allowed, reference), expect, "{allowed} {reference}");
        };
        check("redis", "redis", true);
        check("redis", "redis:7", true);
        check("redis:7", "redis:7", true);
        check("redis:7", "redis:8", false);
        check("redis:7", "redis", false);
        check("redis", "redis@sha256:ab", true);
        check("redis", "evil/redis", false);
        check("redis", "redis-evil", false);
        check("localhost:5000/x", "localhost:5000/x:2", true);
        check("localhost:5000", "localhost:5000/x", false);
        check("", "redis", false);
    }
}
