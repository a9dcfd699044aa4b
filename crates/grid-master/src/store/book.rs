//! The whole store in memory, and the changes of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use grid_platform_api::NodeId;

use super::row::{AgentRow, NodeRow, RequestRow, SeenRow, TokenRow};
use crate::scheduler::Standing;

/// One change of one row.
#[derive(Clone, Debug)]
pub(crate) enum Delta {
    /// A wish is new, changed or gone, at this revision.
    Node(NodeId, Option<Arc<NodeRow>>, u64),
    Agent(String, Option<Arc<AgentRow>>),
    Token(String, Option<Arc<TokenRow>>),
    Request(String, Option<Arc<RequestRow>>),
    /// Lazily kept, and not part of the [`Book`].
    Seen(NodeId, Option<Arc<SeenRow>>),
    /// A new epoch, which begins at this revision. What other copies of the store did before it counts no more.
    Epoch(u64, u64),
    /// This copy of the store counts on from here by a name of its own; the former one ended at that revision.
    Lineage(String, Option<(String, u64)>),
    /// Event ids below this may have been handed out.
    EventIds(u64),
}

/// What an agent has by the wishes, tombstones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) nodes: BTreeSet<NodeId>,
    /// The sum of the memory limits, in MiB.
    pub(crate) memory_mb: u64,
}

/// Everything durable but what was last observed. Rows are shared, so that a copy costs pointers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub(crate) grid_id: String,
    pub(crate) epoch: u64,
    /// Rises with every change of a wish.
    pub(crate) revision: u64,
    /// The name under which the revision was counted last: another one in each life of a master that counts. Empty in
    /// a store that has not counted.
    pub(crate) lineage: String,
    /// The names of before, in this epoch, with the revision at which each ended. A copy of the store that went on by
    /// itself has other names, or other ends: what an agent has heard of it is not among these.
    pub(crate) ancestors: BTreeMap<String, u64>,
    pub(crate) event_ids: u64,
    pub(crate) nodes: HashMap<NodeId, Arc<NodeRow>>,
    pub(crate) agents: BTreeMap<String, Arc<AgentRow>>,
    pub(crate) tokens: HashMap<String, Arc<TokenRow>>,
    pub(crate) requests: HashMap<String, Arc<RequestRow>>,
    /// By agent; kept in step with `nodes`.
    pub(super) loads: BTreeMap<String, Load>,
    /// Every agent, in the order in which they are asked for a new node; kept in step with `agents` and `loads`.
    pub(super) standings: BTreeSet<Standing>,
}

impl Book {
    /// What the agent of this name has.
    pub(crate) fn load(&self, agent: &str) -> Option<&Load> {
        self.loads.get(agent)
    }

    /// Every agent with what it has, in the order in which they are asked for a new node.
    pub(crate) fn by_standing(&self) -> impl Iterator<Item = (&Arc<AgentRow>, Option<&Load>)> {
        self.standings
            .iter()
            .filter_map(|it| Some((self.agents.get(&it.id)?, self.loads.get(&it.id))))
    }

    /// Whether this store, and no other copy of it, was at the revision that somebody heard under the name.
    pub(crate) fn was_at(&self, lineage: &str, revision: u64) -> bool {
        if lineage == self.lineage {
            return revision <= self.revision;
        }
        let end = self.ancestors.get(lineage);
        end.is_some_and(|end| revision <= *end)
    }

    pub(crate) fn apply(&mut self, delta: &Delta) {
        match delta {
            Delta::Node(id, row, revision) => {
                self.revision = self.revision.max(*revision);
                let old = match row {
                    Some(row) => self.nodes.insert(id.clone(), row.clone()),
                    None => self.nodes.remove(id),
                };
                if let Some(old) = old {
                    self.count(&old, false);
                }
                if let Some(row) = row {
                    self.count(row, true);
                }
            }
            Delta::Agent(id, row) => self.stand_anew(id, |book| {
                match row {
                    Some(row) => book.agents.insert(id.clone(), row.clone()),
                    None => book.agents.remove(id),
                };
            }),
            Delta::Token(id, row) => replace(&mut self.tokens, id, row),
            Delta::Request(key, row) => replace(&mut self.requests, key, row),
            Delta::Seen(..) => {}
            Delta::Epoch(epoch, revision) => {
                self.epoch = *epoch;
                self.revision = self.revision.max(*revision);
                self.ancestors.clear();
            }
            Delta::Lineage(name, former) => {
                self.ancestors.extend(former.clone());
                self.lineage.clone_from(name);
            }
            Delta::EventIds(next) => self.event_ids = *next,
        }
    }

    fn count(&mut self, row: &NodeRow, add: bool) {
        let memory = row.spec.as_ref().and_then(|s| s.memory_limit_mb);
        self.stand_anew(&row.agent, |book| {
            let load = book.loads.entry(row.agent.clone()).or_default();
            if add {
                load.nodes.insert(row.id.clone());
                load.memory_mb += memory.unwrap_or(0);
            } else {
                load.nodes.remove(&row.id);
                load.memory_mb = load.memory_mb.saturating_sub(memory.unwrap_or(0));
            }
        });
    }

    /// Makes a change that may move an agent among the others.
    fn stand_anew(&mut self, agent: &str, change: impl FnOnce(&mut Self)) {
        let before = self.standing(agent);
        change(self);
        let after = self.standing(agent);
        if before != after {
            before.iter().for_each(|it| {
                self.standings.remove(it);
            });
            self.standings.extend(after);
        }
    }

    fn standing(&self, agent: &str) -> Option<Standing> {
        let row = self.agents.get(agent)?;
        let load = self.loads.get(agent);
        let used = load.map_or(0, |it| it.memory_mb);
        Some(Standing {
            nodes: load.map_or(0, |it| it.nodes.len()),
            max_storage_nodes: row.info.max_storage_nodes,
            free_mb: row.info.memory_mb.saturating_sub(used),
            id: row.id.clone(),
        })
    }
}

fn replace<T>(map: &mut HashMap<String, Arc<T>>, key: &str, row: &Option<Arc<T>>) {
    match row {
        Some(row) => {
            map.insert(key.to_owned(), row.clone());
        }
        None => {
            map.remove(key);
        }
    }
}

/// One change while it is made: reads see everything before it, writes are kept apart until it succeeds.
#[derive(Debug)]
pub(crate) struct Tx<'a> {
    /// The store as the changes before this one left it.
    pub(crate) book: &'a Book,
    deltas: Vec<Delta>,
    revision: u64,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(book: &'a Book) -> Self {
        Self {
            book,
            deltas: Vec::new(),
            revision: book.revision,
        }
    }

    pub(crate) fn put_node(&mut self, row: NodeRow) {
        self.revision += 1;
        let id = row.id.clone();
        self.deltas
            .push(Delta::Node(id, Some(Arc::new(row)), self.revision));
    }

    pub(crate) fn delete_node(&mut self, id: &NodeId) {
        self.revision += 1;
        self.deltas
            .push(Delta::Node(id.clone(), None, self.revision));
        self.deltas.push(Delta::Seen(id.clone(), None));
    }

    pub(crate) fn put_agent(&mut self, row: AgentRow) {
        self.deltas
            .push(Delta::Agent(row.id.clone(), Some(Arc::new(row))));
    }

    pub(crate) fn delete_agent(&mut self, id: &str) {
        self.deltas.push(Delta::Agent(id.to_owned(), None));
    }

    pub(crate) fn put_token(&mut self, row: TokenRow) {
        self.deltas
            .push(Delta::Token(row.id.clone(), Some(Arc::new(row))));
    }

    pub(crate) fn delete_token(&mut self, id: &str) {
        self.deltas.push(Delta::Token(id.to_owned(), None));
    }

    pub(crate) fn put_request(&mut self, key: String, row: RequestRow) {
        self.deltas.push(Delta::Request(key, Some(Arc::new(row))));
    }

    pub(crate) fn delete_request(&mut self, key: &str) {
        self.deltas.push(Delta::Request(key.to_owned(), None));
    }

    pub(crate) fn put_seen(&mut self, id: NodeId, row: SeenRow) {
        self.deltas.push(Delta::Seen(id, Some(Arc::new(row))));
    }

    pub(crate) fn reserve_event_ids(&mut self, next: u64) {
        self.deltas.push(Delta::EventIds(next));
    }

    pub(crate) fn into_deltas(self) -> Vec<Delta> {
        self.deltas
    }
}

#[cfg(test)]
mod tests {
    use grid_platform_api::{Program, SpawnConfig, Timestamp};

    use super::{super::row::Wish, *};

    fn row(id: &str, agent: &str, memory: Option<u64>) -> NodeRow {
        let id = NodeId::new(id).unwrap();
        let mut spec = SpawnConfig::new(id.clone(), Program::binary("a", [""; 0]));
        spec.memory_limit_mb = memory;
        NodeRow {
            id,
            agent: agent.into(),
            wish: Wish::Running,
            generation: 1,
            settings: None,
            spec: Some(spec),
            sealed: BTreeMap::new(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn loads_follow_the_wishes() {
        let mut book = Book::default();
        let mut change = |f: &dyn Fn(&mut Tx<'_>)| {
            let mut tx = Tx::new(&book);
            f(&mut tx);
            let deltas = tx.into_deltas();
            deltas.iter().for_each(|d| book.apply(d));
            let load = book.load("a").cloned().unwrap_or_default();
            (book.revision, load.nodes.len(), load.memory_mb)
        };
        assert_eq!(
            change(&|tx| tx.put_node(row("x", "a", Some(10)))),
            (1, 1, 10)
        );
        assert_eq!(change(&|tx| tx.put_node(row("y", "a", None))), (2, 2, 10));
        assert_eq!(
            change(&|tx| tx.put_node(row("x", "a", Some(30)))),
            (3, 2, 30)
        );
        assert_eq!(
            change(&|tx| tx.delete_node(&NodeId::new("x").unwrap())),
            (4, 1, 0)
        );
        assert_eq!(
            change(&|tx| tx.delete_node(&NodeId::new("x").unwrap())),
            (5, 1, 0)
        );
    }

    #[test]
    fn each_agent_stands_beside_its_own_load() {
        let mut book = Book::default();
        let agent = |id: &str| AgentRow {
            id: id.to_owned(),
            install_id: "i".to_owned(),
            cordoned: false,
            lost: false,
            info: Default::default(),
            connected_at: Timestamp::UNIX_EPOCH,
        };
        // `a`, `ab` and `z` have nodes, and nobody has told of `ab` and `z`.
        let mut tx = Tx::new(&book);
        for id in ["a", "b", "c"] {
            tx.put_agent(agent(id));
        }
        for (id, agent) in [
            ("n1", "a"),
            ("n2", "ab"),
            ("n3", "c"),
            ("n4", "c"),
            ("n5", "z"),
        ] {
            tx.put_node(row(id, agent, None));
        }
        let deltas = tx.into_deltas();
        deltas.iter().for_each(|d| book.apply(d));
        let order = |book: &Book| -> Vec<_> {
            let all = book.by_standing();
            all.map(|(row, load)| (row.id.clone(), load.map_or(0, |it| it.nodes.len())))
                .collect()
        };
        let of = |all: &[(&str, usize)]| -> Vec<_> {
            all.iter()
                .map(|(id, nodes)| ((*id).to_owned(), *nodes))
                .collect()
        };
        assert_eq!(order(&book), of(&[("b", 0), ("a", 1), ("c", 2)]));
        // Nodes come, go and move to another agent; agents go and come back, and may have more.
        let mut change = |f: &dyn Fn(&mut Tx<'_>)| {
            let mut tx = Tx::new(&book);
            f(&mut tx);
            let deltas = tx.into_deltas();
            deltas.iter().for_each(|d| book.apply(d));
            order(&book)
        };
        let moved = change(&|tx| {
            tx.put_node(row("n3", "b", None));
            tx.delete_node(&NodeId::new("n4").unwrap());
        });
        assert_eq!(moved, of(&[("c", 0), ("a", 1), ("b", 1)]));
        let without = change(&|tx| tx.delete_agent("a"));
        assert_eq!(without, of(&[("c", 0), ("b", 1)]));
        let again = change(&|tx| {
            let mut roomy = agent("a");
            roomy.info.memory_mb = 100;
            tx.put_agent(roomy);
        });
        assert_eq!(again, of(&[("c", 0), ("a", 1), ("b", 1)]));
    }
}
