//! The Docker platform: a node beside the container alone, made by the engine's API, by `docker` and by `docker-compose`.

mod bare;
mod command;
mod compose;
mod container;
mod log;
mod many;
mod one;
mod peer;
mod place;

use crate::Result;
use crate::bench::Bench;
use crate::groups::Group;
use crate::proxy::Manner;
use crate::report::Row;

/// By which `cargo xtask` knows the engine; its place is told as in `DOCKER_HOST`.
const ENGINE: &str = "docker-engine";

/// From where on ports are looked for that peers publish, up to those that the kernel gives away. Adapters allocate from below.
const PEER_PORTS: std::ops::Range<u16> = 30_000..32_768;

/// What clients ask of an engine: the body by which a container is made is kept, for peers to make the same.
const MANNER: Manner = Manner {
    is_endless: |path| path.contains("/events"),
    keeps: |method, path| method == "POST" && path.contains("/containers/create"),
    keeps_lines: false,
};

/// Nodes as containers.
pub(crate) const GROUP: Group = Group {
    name: "docker",
    about: "One node at a time in the bare adapter, ready mode `Started`, with data, a port and limits; the program is \
        static, and ends on SIGTERM. Peers run the same container: the same image, labels, mount, limits and security, which the \
        engine is asked about each time. Everybody speaks to the engine through a counting relay of its own; own time is that of a \
        call in which no call of the engine is under way. `docker-compose` is version 1.",
    programs: &[ENGINE, command::NAME, compose::NAME],
    measure,
};

fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = one::measure(bench)?;
    rows.extend(many::measure(bench)?);
    rows.extend(log::measure(bench)?);
    Ok(rows)
}
