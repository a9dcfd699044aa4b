//! Logs on an engine, as far as no other platform has what is tested: rotation while nobody reads, an engine that is killed, times
//! that are equal or go backwards, drivers and terminals. The suite has the rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is missing"
)]

mod bed;

use std::{fs, path::PathBuf, time::Duration};

use bed::Place;
use futures::StreamExt;
use grid_platform_api::{
    DataPolicy, ErrorKind, LogCursor, LogItem, LogLine, LogSource, LogStream, NodeId, Platform,
    PlatformExt, ReadyMode, RestartMode, SpawnConfig, SpawnConfigBuilder, SpawnedNode,
};
use grid_platform_docker::DockerPlatform;
use grid_platform_testing::probe::{self, boot_line, flood_line, flood_lines};
use grid_testbed::{Api, Engine, Kind, Options};
use serde_json::{Value, json};

/// The longest that is waited for one item.
const PATIENCE: Duration = Duration::from_secs(60);

fn node(place: &Place, name: &str, actions: &[&str]) -> SpawnConfigBuilder {
    // Tests of one engine must not take each other's names.
    let id = format!("{name}-{}", std::process::id());
    SpawnConfig::builder(id, place.probe(actions).unwrap())
        .port(0)
        .ready(ReadyMode::Started)
        .restart(RestartMode::Never)
}

async fn ask(node: &SpawnedNode, action: &str) -> String {
    let endpoint = node.endpoint.as_ref().unwrap();
    let asked = probe::ask_soon(&endpoint.host, endpoint.port, action);
    asked.await.unwrap()
}

async fn next(log: &mut LogStream) -> LogItem {
    let item = tokio::time::timeout(PATIENCE, log.next()).await;
    let item = item.expect("nothing is said any more");
    item.expect("the log ended").unwrap()
}

/// Reads on to a line.
async fn until(log: &mut LogStream, last: &str) -> Vec<LogItem> {
    let mut items = Vec::new();
    loop {
        let item = next(log).await;
        let done = matches!(&item, LogItem::Line(line) if line.bytes == last);
        items.push(item);
        if done {
            return items;
        }
    }
}

async fn lines(log: &mut LogStream, count: usize) -> Vec<LogLine> {
    let mut lines = Vec::new();
    while lines.len() < count {
        match next(log).await {
            LogItem::Line(line) => lines.push(line),
            gap => panic!("a gap where none is due: {gap:?}"),
        }
    }
    lines
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(LogLine::text).collect()
}

/// The number of a line of a flood.
fn flooded(item: &LogItem) -> Option<u64> {
    let LogItem::Line(line) = item else {
        return None;
    };
    let text = line.text();
    let number = text.strip_prefix("flood ")?.get(..12)?.parse().ok()?;
    assert_eq!(text, flood_line(number));
    Some(number)
}

/// The container of a node, by its name.
fn inspect(api: &Api, id: &NodeId) -> Value {
    let path = format!("/containers/{}/json", id.native_name());
    api.get(&path).unwrap()
}

/// Where the engine keeps the log of a container with the driver `local`.
fn log_file(api: &Api, id: &NodeId) -> PathBuf {
    let root = api.get("/info").unwrap()["DockerRootDir"].clone();
    let container = inspect(api, id)["Id"].clone();
    PathBuf::from(root.as_str().unwrap())
        .join("containers")
        .join(container.as_str().unwrap())
        .join("local-logs/container.log")
}

/// An entry as the driver `local` writes it: a message of Protocol Buffers (source, time, line), its length before and behind it.
fn entry(source: &str, ns: u64, line: &str) -> Vec<u8> {
    fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value > 127 {
            out.push(u8::try_from(value & 127 | 128).unwrap());
            value >>= 7;
        }
        out.push(u8::try_from(value).unwrap());
    }
    let mut message = Vec::new();
    let field = |message: &mut Vec<u8>, tag: u8, text: &str| {
        message.push(tag);
        varint(message, text.len() as u64);
        message.extend_from_slice(text.as_bytes());
    };
    field(&mut message, 0x0a, source);
    message.push(0x10);
    varint(&mut message, ns);
    field(&mut message, 0x1a, line);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&length[..], &message, &length].concat()
}

/// A container of a node made anew by hand, as it was but for some of its settings.
fn remake(api: &Api, id: &NodeId, change: impl FnOnce(&mut Value)) {
    let old = inspect(api, id);
    let name = id.native_name();
    api.call("DELETE", &format!("/containers/{name}?force=true"), None)
        .unwrap();
    let mut body = old["Config"].clone();
    body["HostConfig"] = old["HostConfig"].clone();
    change(&mut body);
    let path = format!("/containers/create?name={name}");
    api.call("POST", &path, Some(&body)).unwrap();
    api.call("POST", &format!("/containers/{name}/start"), None)
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_a_reader_that_waits_is_one_gap() {
    let place = Place::new(&bed::engine(Kind::Docker).unwrap()).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let node = platform
        .spawn_node(node(&place, "rotated", &[]).build().unwrap())
        .await
        .unwrap();
    let id = &node.node_id;
    let mut log = platform.follow_logs(id, LogCursor::Start).await.unwrap();
    let first = lines(&mut log, 1).await.remove(0);
    assert_eq!(first.text(), boot_line(1));
    let bytes = bed::LOG_BUDGET * 4;
    ask(&node, &format!("flood={bytes}")).await;
    let last = flood_line(flood_lines(bytes));
    // The engine has taken it all in when it is told of by another.
    let mut other = platform.follow_logs(id, LogCursor::Tail(1)).await.unwrap();
    until(&mut other, &last).await;

    let items = until(&mut log, &last).await;
    let gaps = items
        .iter()
        .filter(|it| matches!(it, LogItem::Gap { .. }))
        .count();
    assert_eq!(gaps, 1);
    let LogItem::Gap { from, to, .. } = &items[0] else {
        panic!("the gap begins where the reader was: {:?}", items[0]);
    };
    assert_eq!(*from, first.position);
    let numbers: Vec<_> = items.iter().filter_map(flooded).collect();
    assert_eq!(numbers.len(), items.len() - 1);
    let expect: Vec<_> = (numbers[0]..=flood_lines(bytes)).collect();
    assert_eq!(numbers, expect, "none is missing behind the gap");
    // The gap's end is a place to go on from.
    let again = platform.follow_logs(id, LogCursor::After(to.clone())).await;
    assert_eq!(until(&mut again.unwrap(), &last).await, items[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_within_the_budget_is_whole() {
    let place = Place::new(&bed::engine(Kind::Docker).unwrap()).unwrap();
    let mut config = place.own_config();
    config.log_max_bytes = 64 * 1024 * 1024;
    let platform = place.open(config).await.unwrap();
    let node = platform
        .spawn_node(node(&place, "flooding", &[]).build().unwrap())
        .await
        .unwrap();
    let mut log = platform
        .follow_logs(&node.node_id, LogCursor::Start)
        .await
        .unwrap();
    let bytes = 3 << 20;
    let last = flood_line(flood_lines(bytes));
    let flood = format!("flood={bytes}");
    let (items, _) = tokio::join!(until(&mut log, &last), ask(&node, &flood));
    let numbers: Vec<_> = items.iter().filter_map(flooded).collect();
    let expect: Vec<_> = (1..=flood_lines(bytes)).collect();
    assert_eq!(numbers, expect);
    assert_eq!(items.len(), numbers.len() + 1, "and the boot");
}

/// Reads on while the engine is killed and raised again; then what was read is what the engine has kept.
async fn over_kills(options: Options, kills: usize) -> Vec<String> {
    let engine = Engine::temporary(Kind::Docker, options).unwrap();
    let place = Place::new(&Api::new(&engine.host()).unwrap()).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node(&place, "counting", &["count=5"]).build().unwrap();
    let node = platform.spawn_node(config.clone()).await.unwrap();
    let id = &node.node_id;
    let mut log = platform.follow_logs(id, LogCursor::Start).await.unwrap();
    let mut seen = lines(&mut log, 50).await;
    for _ in 0..kills {
        engine.kill().unwrap();
        engine.up(options).unwrap();
        if !options.live_restore {
            // It ended what it found.
            let ended = |it: Option<&SpawnedNode>| it.is_some_and(|it| it.state.is_ended());
            platform.wait_for(id, PATIENCE, ended).await.unwrap();
            let boot = platform.spawn_node(config.clone()).await.unwrap();
            assert_eq!(boot.uid, node.uid);
            let boots = |seen: &[LogLine]| {
                let boots = seen.iter().filter(|it| it.text().starts_with("boot "));
                boots.count()
            };
            let before = boots(&seen);
            while boots(&seen) == before {
                seen.extend(lines(&mut log, 1).await);
            }
        }
        seen.extend(lines(&mut log, 50).await);
    }
    let kept = platform.get_logs(id, usize::MAX).await.unwrap();
    assert!(kept.len() >= seen.len(), "none twice");
    assert_eq!(texts(&seen), kept[..seen.len()]);
    // Another follower goes on behind any of them.
    let behind = LogCursor::After(seen[60].position.clone());
    let mut again = platform.follow_logs(id, behind).await.unwrap();
    assert_eq!(lines(&mut again, seen.len() - 61).await, seen[61..]);
    platform.remove_node(id, DataPolicy::Purge).await.unwrap();
    let boots = seen.iter().map(LogLine::text);
    boots.filter(|it| it.starts_with("boot ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_under_its_containers_loses_and_doubles_nothing() {
    let options = Options { live_restore: true };
    assert_eq!(over_kills(options, 2).await, [boot_line(1)], "it lived on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_with_what_is_started_again_after_its_engine_was_killed() {
    let boots = over_kills(Options::default(), 2).await;
    assert_eq!(boots, [1, 2, 3].map(boot_line));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_and_backward_times_lose_and_double_nothing() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let node = platform
        .spawn_node(node(&place, "timeless", &[]).build().unwrap())
        .await
        .unwrap();
    let id = &node.node_id;
    platform.stop_node(id).await.unwrap();
    // A clock that stands, goes back, and comes by the same times again, for both outputs and for texts that come again.
    let mut log = Vec::new();
    for round in 0..40_u64 {
        for step in [0, 0, 0, 5, 3, 0] {
            let source = ["stdout", "stderr"][usize::from(log.len() % 3 == 0)];
            let ns = 1_790_000_000_000_000_000 + round / 4 * 1000 + step;
            log.extend(entry(source, ns, &format!("text {}", (round + step) % 7)));
        }
    }
    fs::write(log_file(&api, id), &log).unwrap();
    let mut all = platform.follow_logs(id, LogCursor::Start).await.unwrap();
    let seen = lines(&mut all, 240).await;
    let kept = platform.get_logs(id, usize::MAX).await.unwrap();
    assert_eq!(texts(&seen), kept);
    assert!(seen.windows(2).any(|it| it[0].at == it[1].at));
    assert!(seen.windows(2).any(|it| it[0].at > it[1].at));
    for at in [0, 1, 2, 77, 150, 237, 238] {
        let behind = LogCursor::After(seen[at].position.clone());
        let mut rest = platform.follow_logs(id, behind).await.unwrap();
        let rest = lines(&mut rest, 239 - at).await;
        assert_eq!(rest, seen[at + 1..], "behind line {at}");
    }
    for tail in [1, 5, 100] {
        let mut rest = platform
            .follow_logs(id, LogCursor::Tail(tail))
            .await
            .unwrap();
        assert_eq!(lines(&mut rest, tail).await, seen[240 - tail..]);
    }
}

/// How much memory this process has taken at most, in bytes.
fn most_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_long_log_takes_no_more_memory_than_its_lines() {
    const BLOCKS: u64 = 1000;
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let platform = place.open(place.own_config()).await.unwrap();
    let node = platform
        .spawn_node(node(&place, "long", &[]).build().unwrap())
        .await
        .unwrap();
    platform.stop_node(&node.node_id).await.unwrap();
    // 150 MB, and none of it in memory here.
    let line = |number: u64| format!("{number} {}", "=".repeat(100));
    let block: Vec<u8> = (0..1000)
        .flat_map(|number| entry("stdout", 1_790_000_000_000_000_000 + number, &line(number)))
        .collect();
    let mut file = fs::File::create(log_file(&api, &node.node_id)).unwrap();
    for _ in 0..BLOCKS {
        std::io::Write::write_all(&mut file, &block).unwrap();
    }
    let size = block.len() as u64 * BLOCKS;
    let before = most_memory();
    let tail = platform.get_logs(&node.node_id, 100).await.unwrap();
    assert_eq!(tail, (900..1000).map(line).collect::<Vec<_>>());
    let taken = most_memory() - before;
    assert!(taken < size / 4, "{taken} bytes for 100 lines of {size}");
}

/// A node whose container was made anew with such a log and terminal.
async fn remade(
    api: &Api,
    place: &Place,
    actions: &[&str],
    driver: &str,
    tty: bool,
) -> (DockerPlatform, NodeId) {
    let platform = place.open(place.own_config()).await.unwrap();
    let config = node(place, &format!("{driver}-{tty}"), actions);
    let node = platform.spawn_node(config.build().unwrap()).await.unwrap();
    drop(platform);
    remake(api, &node.node_id, |body| {
        body["HostConfig"]["LogConfig"] = json!({ "Type": driver });
        body["Tty"] = json!(tty);
    });
    let platform = place.open(place.own_config()).await.unwrap();
    (platform, node.node_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_keeps_nothing_is_told() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let (platform, id) = remade(&api, &place, &[], "none", false).await;
    let error = platform.get_logs(&id, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LogsUnavailable);
    assert!(error.hint().unwrap().contains("grid rm"), "{error:?}");
    for cursor in [LogCursor::Start, LogCursor::End] {
        let followed = platform.follow_logs(&id, cursor).await.map(drop);
        assert_eq!(followed.unwrap_err().kind(), ErrorKind::LogsUnavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_terminal_is_read_without_its_frames() {
    let api = bed::engine(Kind::Docker).unwrap();
    let place = Place::new(&api).unwrap();
    let actions = ["say=out", "err=error", "giant=40000", "say=end"];
    let (platform, id) = remade(&api, &place, &actions, "json-file", true).await;
    let mut log = platform.follow_logs(&id, LogCursor::Start).await.unwrap();
    let items = until(&mut log, "end").await;
    let seen: Vec<_> = items
        .iter()
        .map(|it| match it {
            LogItem::Line(line) => {
                assert_eq!(line.source, LogSource::Combined);
                line.text()
            }
            gap => panic!("a gap where none is due: {gap:?}"),
        })
        .collect();
    let giant = String::from_utf8(probe::giant_line(40_000)).unwrap();
    assert_eq!(seen[1..], ["out", "error", &giant, "end"]);
    assert_eq!(platform.get_logs(&id, 2).await.unwrap(), [&giant, "end"]);
}
