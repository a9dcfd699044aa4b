//! Which agent a new node goes to. Pure: it knows agents and a request, no store, no clock and no wire.

use std::{cmp::Ordering, collections::BTreeMap, fmt};

use grid_platform_api::{Capabilities, Error, ErrorKind, Program, RestartMode};

/// An agent as the scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) id: &'a str,
    /// The master hears it.
    pub(crate) ready: bool,
    pub(crate) cordoned: bool,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) capabilities: &'a Capabilities,
    /// What it runs when a request names no program.
    pub(crate) default_program: Option<&'a Program>,
    /// Nodes it has, tombstones included.
    pub(crate) nodes: usize,
    /// How many it may have; 0 is no limit.
    pub(crate) max_storage_nodes: u32,
    /// Memory of its host, MiB; 0 is unknown.
    pub(crate) memory_mb: u64,
    /// The sum of its nodes' memory limits, MiB.
    pub(crate) memory_used_mb: u64,
}

/// What a program needs to be run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgramKind {
    /// A program of the host.
    Binary,
    /// An image.
    Image,
    /// The agent's own.
    Default,
}

/// What a new node asks of its agent.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// The agent that is named, if one is.
    pub(crate) agent: Option<&'a str>,
    /// Labels that the agent must have.
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) program: ProgramKind,
    pub(crate) restart: RestartMode,
    /// MiB.
    pub(crate) memory_mb: Option<u64>,
    pub(crate) cpu_limit: bool,
    pub(crate) pids_limit: bool,
    pub(crate) open_files_limit: bool,
    pub(crate) storage_size: bool,
    pub(crate) storage_path: bool,
    pub(crate) user: bool,
    pub(crate) secrets: bool,
    pub(crate) secret_env: bool,
    pub(crate) health: bool,
}

/// Why an agent does not take a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Lost,
    Cordoned,
    /// It has as many nodes as it may.
    Full(u32),
    /// It lacks this label.
    Label(String, String),
    /// So many MiB are free.
    Memory(u64),
    /// No program is asked for, and it has none of its own.
    NoDefaultProgram,
    /// Its platform cannot do this.
    Unsupported(&'static str),
}

impl Refusal {
    /// The kind of the error when this is why nothing was found.
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost => ErrorKind::Unavailable,
            Self::Cordoned | Self::Full(_) | Self::Memory(_) => ErrorKind::Exhausted,
            Self::Label(..) | Self::NoDefaultProgram => ErrorKind::InvalidConfig,
            Self::Unsupported(_) => ErrorKind::Unsupported,
        }
    }

    fn hint(&self, agent: &str) -> String {
        match self {
            Self::Lost => format!("Start the agent `{agent}`; `grid agents` shows who is heard."),
            Self::Cordoned => {
                format!("`grid uncordon {agent}` lets new nodes be placed there again.")
            }
            Self::Full(_) => {
                "Raise `[agent] max_storage_nodes`, remove a node, or add an agent.".to_owned()
            }
            Self::Label(key, value) => {
                format!("Add `{key} = \"{value}\"` under `[agent] labels` of an agent, or ask for other labels.")
            }
            Self::Memory(_) => {
                "Ask for less by `memory_limit_mb`, or add an agent.".to_owned()
            }
            Self::NoDefaultProgram => {
                "Name a program by `binary` or `image`, or set `[storage] binary_path` of the agent."
                    .to_owned()
            }
            Self::Unsupported(_) => {
                "Leave that out of the request, or choose an agent of another platform.".to_owned()
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("is not connected"),
            Self::Cordoned => f.write_str("is cordoned"),
            Self::Full(max) => write!(f, "has its {max} nodes"),
            Self::Label(key, value) => write!(f, "lacks the label `{key}={value}`"),
            Self::Memory(free) => write!(f, "has {free} MiB of memory free"),
            Self::NoDefaultProgram => f.write_str("has no program of its own"),
            Self::Unsupported(what) => write!(f, "cannot do this: {what}"),
        }
    }
}

/// Where an agent stands among those that a new node may go to: first the one with the smallest part of its places
/// taken, then the one with the most free memory, then the first by name.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// Nodes it has, tombstones included.
    pub(crate) nodes: usize,
    /// How many it may have; 0 is no limit.
    pub(crate) max_storage_nodes: u32,
    /// MiB.
    pub(crate) free_mb: u64,
    pub(crate) id: String,
}

impl Ord for Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        // Parts of places taken, compared as fractions; without a limit a place is as good as one of very many.
        let places = |it: &Self| match it.max_storage_nodes {
            0 => u128::from(u32::MAX),
            max => u128::from(max),
        };
        let taken = self.nodes as u128 * places(other);
        taken
            .cmp(&(other.nodes as u128 * places(self)))
            .then_with(|| other.free_mb.cmp(&self.free_mb))
            .then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Standing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Standing {}

/// Chooses the agent: the first that can take the node. The candidates come in the order of their [`Standing`], so that
/// those behind the chosen one cost nothing.
///
/// # Errors
/// `NotFound` for a named agent that does not exist; else why each agent does not take it, with the kind of the
/// first one's reason.
pub(crate) fn place<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    request: &Request<'_>,
) -> Result<&'a str, Error> {
    let mut refusals: Vec<(&'a str, Refusal)> = Vec::new();
    for candidate in candidates {
        if request.agent.is_some_and(|named| named != candidate.id) {
            continue;
        }
        match refuse(&candidate, request) {
            Some(refusal) => refusals.push((candidate.id, refusal)),
            None => return Ok(candidate.id),
        }
    }
    match request.agent {
        Some(named) if refusals.is_empty() => Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "there is no agent `{}`",
                grid_platform_api::printable(named)
            ),
        )
        .with_hint("`grid agents` lists the agents; one is known once it has connected.")),
        _ => {
            refusals.sort_by_key(|(agent, _)| *agent);
            Err(nobody(&refusals))
        }
    }
}

fn nobody(refusals: &[(&str, Refusal)]) -> Error {
    /// So many agents are told of one by one.
    const SHOWN: usize = 8;
    let Some((first, refusal)) = refusals.first() else {
        return Error::new(ErrorKind::Unavailable, "no agent has connected yet")
            .with_hint("Start an agent: `grid-agent`, or `grid up` for one of this host.");
    };
    let mut reasons: Vec<String> = refusals
        .iter()
        .take(SHOWN)
        .map(|(agent, refusal)| format!("`{agent}` {refusal}"))
        .collect();
    if refusals.len() > SHOWN {
        reasons.push(format!("and {} more", refusals.len() - SHOWN));
    }
    // A retry can help as soon as one of the reasons can pass by itself.
    let retryable = refusals.iter().any(|(_, r)| r.kind().is_retryable());
    let kind = refusals
        .iter()
        .map(|(_, r)| r.kind())
        .find(|kind| kind.is_retryable())
        .unwrap_or_else(|| refusal.kind());
    Error::new(
        kind,
        format!("no agent can take the node: {}", reasons.join(", ")),
    )
    .with_retryable(retryable)
    .with_hint(refusal.hint(first))
}

/// The first reason why `agent` does not take the node.
fn refuse(agent: &Candidate<'_>, request: &Request<'_>) -> Option<Refusal> {
    if !agent.ready {
        return Some(Refusal::Lost);
    }
    if agent.cordoned {
        return Some(Refusal::Cordoned);
    }
    if let Some((key, value)) = request
        .labels
        .iter()
        .find(|(key, value)| agent.labels.get(*key) != Some(value))
    {
        return Some(Refusal::Label(key.clone(), value.clone()));
    }
    if let Some(what) = unsupported(agent, request) {
        return Some(what);
    }
    if agent.max_storage_nodes != 0 && agent.nodes >= agent.max_storage_nodes as usize {
        return Some(Refusal::Full(agent.max_storage_nodes));
    }
    let free = agent.memory_mb.saturating_sub(agent.memory_used_mb);
    if agent.memory_mb != 0 && request.memory_mb.is_some_and(|wanted| wanted > free) {
        return Some(Refusal::Memory(free));
    }
    None
}

fn unsupported(agent: &Candidate<'_>, request: &Request<'_>) -> Option<Refusal> {
    let can = agent.capabilities;
    let kind = match (request.program, agent.default_program) {
        (ProgramKind::Binary, _) | (ProgramKind::Default, Some(Program::Binary { .. })) => {
            (true, can.binary_programs, "programs of the host (`binary`)")
        }
        (ProgramKind::Image, _) | (ProgramKind::Default, Some(Program::Image { .. })) => {
            (true, can.image_programs, "images (`image`)")
        }
        (ProgramKind::Default, None) => return Some(Refusal::NoDefaultProgram),
    };
    let restart = (
        // A platform that lists no mode says nothing about them.
        !can.restart_modes.is_empty(),
        can.restart_modes.contains(&request.restart),
        match request.restart {
            RestartMode::Never => "the restart mode `never`",
            RestartMode::OnFailure => "the restart mode `on-failure`",
            RestartMode::Always => "the restart mode `always`",
        },
    );
    [
        kind,
        restart,
        (
            request.memory_mb.is_some(),
            can.memory_limit,
            "`memory_limit_mb`",
        ),
        (request.cpu_limit, can.cpu_limit, "`cpu_limit_millis`"),
        (request.pids_limit, can.pids_limit, "`pids_limit`"),
        (
            request.open_files_limit,
            can.open_files_limit,
            "`open_files_limit`",
        ),
        (request.storage_size, can.storage_size, "`storage_size_mb`"),
        (request.storage_path, can.storage_path, "`storage_path`"),
        (request.user, can.user, "`run_as`"),
        (request.secrets, can.secrets, "`secrets`"),
        (request.secret_env, can.secret_env, "`secret_env`"),
        (request.health, can.health_checks, "`health`"),
    ]
    .into_iter()
    .find(|(asked, able, _)| *asked && !able)
    .map(|(.., what)| Refusal::Unsupported(what))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option::of, prelude::*};

    use super::*;

    #[derive(Debug)]
    struct Agent {
        id: &'static str,
        ready: bool,
        cordoned: bool,
        labels: BTreeMap<String, String>,
        capabilities: Capabilities,
        program: Option<Program>,
        nodes: usize,
        max: u32,
        memory: (u64, u64),
    }

    fn agent(id: &'static str) -> Agent {
        let mut capabilities = Capabilities::none();
        capabilities.binary_programs = true;
        capabilities.memory_limit = true;
        capabilities.restart_modes = [RestartMode::OnFailure].into();
        Agent {
            id,
            ready: true,
            cordoned: false,
            labels: BTreeMap::new(),
            capabilities,
            program: Some(Program::binary("s", [""; 0])),
            nodes: 0,
            max: 0,
            memory: (0, 0),
        }
    }

    fn request(labels: &BTreeMap<String, String>) -> Request<'_> {
        Request {
            agent: None,
            labels,
            program: ProgramKind::Default,
            restart: RestartMode::OnFailure,
            memory_mb: None,
            cpu_limit: false,
            pids_limit: false,
            open_files_limit: false,
            storage_size: false,
            storage_path: false,
            user: false,
            secrets: false,
            secret_env: false,
            health: false,
        }
    }

    fn standing(agent: &Agent) -> Standing {
        Standing {
            nodes: agent.nodes,
            max_storage_nodes: agent.max,
            free_mb: agent.memory.0.saturating_sub(agent.memory.1),
            id: agent.id.to_owned(),
        }
    }

    fn run(agents: &[Agent], request: &Request<'_>) -> Result<String, String> {
        let mut agents: Vec<&Agent> = agents.iter().collect();
        agents.sort_by_key(|it| standing(it));
        let candidates = agents.into_iter().map(|a| Candidate {
            id: a.id,
            ready: a.ready,
            cordoned: a.cordoned,
            labels: &a.labels,
            capabilities: &a.capabilities,
            default_program: a.program.as_ref(),
            nodes: a.nodes,
            max_storage_nodes: a.max,
            memory_mb: a.memory.0,
            memory_used_mb: a.memory.1,
        });
        place(candidates, request).map(str::to_owned).map_err(|e| {
            assert!(e.hint().is_some(), "{e}");
            format!("{}: {e}", e.kind())
        })
    }

    fn any_agent() -> impl Strategy<Value = Agent> {
        (
            prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")],
            (
                any::<bool>(),
                prop::bool::weighted(0.3),
                any::<bool>(),
                any::<bool>(),
            ),
            (0usize..6, 0u32..6),
            (0u64..300, 0u64..300),
        )
            .prop_map(
                |(id, (ready, cordoned, zone, images), (nodes, max), memory)| {
                    let mut agent = Agent {
                        ready,
                        cordoned,
                        nodes,
                        max,
                        memory,
                        ..agent(id)
                    };
                    agent.capabilities.image_programs = images;
                    if zone {
                        agent.labels.insert("zone".into(), "a".into());
                    }
                    agent
                },
            )
    }

    proptest! {
        #[test]
        fn who_is_chosen_can_take_it_and_nobody_better_could(
            agents in vec(any_agent(), 0..8),
            (zone, image) in (any::<bool>(), any::<bool>()),
            memory_mb in of(1u64..300),
            named in of(prop_oneof![Just("a"), Just("b"), Just("x")]),
        ) {
            // The master knows one agent of each name.
            let agents: BTreeMap<&str, Agent> = agents.into_iter().map(|a| (a.id, a)).collect();
            let agents: Vec<Agent> = agents.into_values().collect();
            let labels = zone.then(|| ("zone".to_owned(), "a".to_owned())).into_iter().collect();
            let program = if image { ProgramKind::Image } else { ProgramKind::Default };
            let request = Request { agent: named, program, memory_mb, ..request(&labels) };
            let fits = |a: &Agent| {
                named.is_none_or(|name| name == a.id)
                    && a.ready
                    && !a.cordoned
                    && (!zone || a.labels.contains_key("zone"))
                    && (!image || a.capabilities.image_programs)
                    && (a.max == 0 || a.nodes < a.max as usize)
                    && (a.memory.0 == 0 || memory_mb.unwrap_or(0) + a.memory.1 <= a.memory.0 || memory_mb.is_none())
            };
            let chosen = run(&agents, &request);
            let fitting: Vec<&Agent> = agents.iter().filter(|a| fits(a)).collect();
            match &chosen {
                Err(_) => prop_assert!(fitting.is_empty()),
                Ok(id) => {
                    let taken = |a: &Agent| if a.max == 0 { a.nodes as f64 / f64::from(u32::MAX) } else { a.nodes as f64 / f64::from(a.max) };
                    let best = fitting.iter().find(|a| a.id == id);
                    prop_assert!(best.is_some(), "{id} cannot take it");
                    let best = taken(best.unwrap());
                    for other in &fitting {
                        prop_assert!(best <= taken(other) + 1e-12, "{} has more room than {id}", other.id);
                    }
                }
            }
            // Who asks first makes no difference.
            let mut reversed = agents;
            reversed.reverse();
            let again = run(&reversed, &request);
            prop_assert_eq!(again.ok(), chosen.ok());
        }
    }

    #[test]
    fn it_spreads_by_free_places_then_memory_then_name() {
        let none = BTreeMap::new();
        let check = |agents: [Agent; 2], expect: &str| {
            assert_eq!(run(&agents, &request(&none)), Ok(expect.to_owned()));
        };
        let with = |id, nodes, max, memory| Agent {
            nodes,
            max,
            memory,
            ..agent(id)
        };
        check([agent("b"), agent("a")], "a");
        check([with("a", 1, 0, (0, 0)), agent("b")], "b");
        // 2 of 10 is less than 1 of 2.
        check([with("a", 1, 2, (0, 0)), with("b", 2, 10, (0, 0))], "b");
        check([with("a", 0, 4, (100, 0)), with("b", 0, 4, (200, 0))], "b");
        check(
            [with("a", 0, 4, (300, 250)), with("b", 0, 4, (200, 0))],
            "b",
        );
        // Without a limit there is more room than with any.
        check([with("a", 1, 100, (0, 0)), with("b", 1, 0, (0, 0))], "b");
    }

    #[test]
    fn who_cannot_take_it_says_why() {
        let zone: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
        let none = BTreeMap::new();
        let check = |agent: Agent, request: Request<'_>, expect: &str| {
            assert_eq!(run(&[agent], &request), Err(expect.to_owned()));
        };
        let asks = request(&none);
        check(
            Agent {
                ready: false,
                ..agent("a")
            },
            asks.clone(),
            "unavailable: no agent can take the node: `a` is not connected",
        );
        check(
            Agent {
                cordoned: true,
                ..agent("a")
            },
            asks.clone(),
            "exhausted: no agent can take the node: `a` is cordoned",
        );
        check(
            Agent {
                max: 2,
                nodes: 2,
                ..agent("a")
            },
            asks.clone(),
            "exhausted: no agent can take the node: `a` has its 2 nodes",
        );
        check(
            agent("a"),
            request(&zone),
            "invalid_config: no agent can take the node: `a` lacks the label `zone=a`",
        );
        check(
            Agent {
                memory: (100, 80),
                ..agent("a")
            },
            Request {
                memory_mb: Some(21),
                ..asks.clone()
            },
            "exhausted: no agent can take the node: `a` has 20 MiB of memory free",
        );
        check(
            Agent {
                program: None,
                ..agent("a")
            },
            asks.clone(),
            "invalid_config: no agent can take the node: `a` has no program of its own",
        );
        check(
            agent("a"),
            Request {
                program: ProgramKind::Image,
                ..asks.clone()
            },
            "unsupported: no agent can take the node: `a` cannot do this: images (`image`)",
        );
        check(
            agent("a"),
            Request {
                restart: RestartMode::Always,
                ..asks.clone()
            },
            "unsupported: no agent can take the node: `a` cannot do this: the restart mode `always`",
        );
        check(
            agent("a"),
            Request {
                pids_limit: true,
                ..asks.clone()
            },
            "unsupported: no agent can take the node: `a` cannot do this: `pids_limit`",
        );
        check(
            agent("a"),
            Request {
                storage_size: true,
                ..asks.clone()
            },
            "unsupported: no agent can take the node: `a` cannot do this: `storage_size_mb`",
        );
        check(
            agent("a"),
            Request {
                agent: Some("b"),
                ..asks.clone()
            },
            "not_found: there is no agent `b`",
        );
        assert_eq!(
            run(&[], &asks),
            Err("unavailable: no agent has connected yet".to_owned())
        );
    }

    #[test]
    fn a_named_agent_is_held_to_the_same_rules() {
        let none = BTreeMap::new();
        let named = Request {
            agent: Some("b"),
            ..request(&none)
        };
        let full = || Agent {
            max: 1,
            nodes: 1,
            ..agent("b")
        };
        assert_eq!(run(&[agent("a"), agent("b")], &named), Ok("b".to_owned()));
        assert_eq!(
            run(&[agent("a"), full()], &named),
            Err("exhausted: no agent can take the node: `b` has its 1 nodes".to_owned())
        );
        let other = request(&none);
        assert_eq!(run(&[full(), agent("c")], &other), Ok("c".to_owned()));
    }

    #[test]
    fn many_agents_make_no_endless_line() {
        let none = BTreeMap::new();
        let agents: Vec<Agent> = (0..20)
            .map(|_| Agent {
                cordoned: true,
                ..agent("a")
            })
            .collect();
        let error = run(&agents, &request(&none)).unwrap_err();
        assert!(error.ends_with("and 12 more"), "{error}");
    }
}
