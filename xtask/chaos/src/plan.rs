//! What is done when: all of it from the seed, nothing from what happens.

use std::fmt;

use fastrand::Rng;

/// What a fault point does to who meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Ends the process as `kill -9` does.
    Abort,
    /// Fails the step: the disk is full.
    Full,
    /// Fails the step: the disk is broken.
    Broken,
    /// Holds the step up for so many milliseconds.
    Stall(u32),
}

impl Order {
    /// The order as `grid_platform_api::fault` reads it.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Abort => "abort".to_owned(),
            Self::Full => "error 28".to_owned(),
            Self::Broken => "error 5".to_owned(),
            Self::Stall(ms) => format!("stall {ms}"),
        }
    }
}

/// A fault point, and what makes sense there: a step that cannot fail is not made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) name: &'static str,
    pub(crate) orders: &'static [Order],
}

/// Orders for a step that can fail.
pub(crate) const STEP: &[Order] = &[Order::Abort, Order::Full, Order::Broken, Order::Stall(400)];
/// Orders between two steps.
pub(crate) const BETWEEN: &[Order] = &[Order::Abort, Order::Stall(400)];
/// Orders where only an end matters.
pub(crate) const END: &[Order] = &[Order::Abort];

/// The points of agent and master, whatever the platform.
pub(crate) const COMMON_POINTS: &[Point] = &[
    Point {
        name: "desired-before-save",
        orders: STEP,
    },
    Point {
        name: "desired-after-save",
        orders: STEP,
    },
    Point {
        name: "store-before-commit",
        orders: STEP,
    },
    Point {
        name: "store-after-commit",
        orders: STEP,
    },
];

/// A kind of fault, as it is drawn and counted. A platform names those that it has, in [`Ground::kinds`].
///
/// [`Ground::kinds`]: crate::platform::Ground::kinds
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    KillAgent,
    KillMaster,
    KillShim,
    KillNode,
    KillShimAndNode,
    CutLink,
    StallLink,
    FillDisk,
    Point,
    RecyclePid,
    KillEngine,
    RestartEngine,
    CutSocket,
    StallSocket,
    FillEngine,
    RemoveContainer,
    StopContainer,
    PauseContainer,
    RenameContainer,
    CutServer,
    StallServer,
    DeletePod,
    ForceDeletePod,
    EvictPod,
    StripLabels,
    AnnotateObjects,
    HoldClaim,
    KillApiServer,
    PauseEtcd,
    StopKubelet,
}

impl Kind {
    /// Whether it takes a namespace of our own.
    pub(crate) fn needs_root(self) -> bool {
        matches!(self, Self::FillDisk | Self::RecyclePid)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KillAgent => "kill agent",
            Self::KillMaster => "kill master",
            Self::KillShim => "kill shim",
            Self::KillNode => "kill node",
            Self::KillShimAndNode => "kill shim and node",
            Self::CutLink => "cut link",
            Self::StallLink => "stall link",
            Self::FillDisk => "fill disk",
            Self::Point => "fault point",
            Self::RecyclePid => "recycle pid",
            Self::KillEngine => "kill engine",
            Self::RestartEngine => "restart engine",
            Self::CutSocket => "cut the engine's socket",
            Self::StallSocket => "stall the engine's socket",
            Self::FillEngine => "fill the engine's disk",
            Self::RemoveContainer => "remove container",
            Self::StopContainer => "stop container",
            Self::PauseContainer => "pause container",
            Self::RenameContainer => "rename container",
            Self::CutServer => "cut the way to the API server",
            Self::StallServer => "stall the way to the API server",
            Self::DeletePod => "delete pod",
            Self::ForceDeletePod => "delete pod by force",
            Self::EvictPod => "evict pod",
            Self::StripLabels => "take labels away",
            Self::AnnotateObjects => "annotate objects",
            Self::HoldClaim => "keep claim from going",
            Self::KillApiServer => "kill API server",
            Self::PauseEtcd => "pause etcd",
            Self::StopKubelet => "stop kubelet",
        })
    }
}

/// A kind of fault, and how often it is drawn beside the others.
pub(crate) type Weight = (Kind, usize);

/// One fault of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// How long after the one before, in milliseconds.
    pub(crate) wait_ms: u64,
    /// Which of those that are there when it strikes.
    pub(crate) pick: u64,
    /// How long it lasts, or how soon what was killed is started again, in milliseconds.
    pub(crate) lasts_ms: u64,
    /// Of [`Kind::Point`].
    pub(crate) point: Option<(&'static str, Order)>,
}

/// The plan: an endless series of faults.
pub(crate) struct Plan {
    rng: Rng,
    kinds: Vec<Weight>,
    points: Vec<Point>,
    deck: Vec<Kind>,
    orders: Vec<(&'static str, Order)>,
}

impl Plan {
    /// The plan of a seed, of these kinds and points.
    pub(crate) fn new(seed: u64, kinds: Vec<Weight>, points: &[Point]) -> Self {
        let mut plan = Self {
            rng: Rng::with_seed(seed),
            kinds,
            points: points.to_vec(),
            deck: Vec::new(),
            orders: Vec::new(),
        };
        // One of each kind comes first, so that a short run has met them all.
        plan.deck = plan.kinds.iter().map(|(kind, _)| *kind).collect();
        plan.rng.shuffle(&mut plan.deck);
        plan
    }

    /// How many faults until the next census.
    pub(crate) fn epoch(&mut self) -> usize {
        self.rng.usize(25..50)
    }

    fn kind(&mut self) -> Kind {
        if self.deck.is_empty() {
            let cards = self.kinds.iter();
            self.deck = cards
                .flat_map(|(kind, weight)| std::iter::repeat_n(*kind, *weight))
                .collect();
            self.rng.shuffle(&mut self.deck);
        }
        self.deck.pop().unwrap_or(Kind::KillAgent)
    }

    fn order(&mut self) -> Option<(&'static str, Order)> {
        if self.orders.is_empty() {
            let points = self.points.iter();
            self.orders = points
                .flat_map(|point| point.orders.iter().map(|order| (point.name, *order)))
                .collect();
            self.rng.shuffle(&mut self.orders);
        }
        self.orders.pop()
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let kind = self.kind();
        let lasts_ms = match kind {
            // Some stalls outlast the time after which each side gives the other up.
            Kind::StallLink | Kind::StallSocket | Kind::StallServer => self.rng.u64(200..4500),
            Kind::CutLink | Kind::CutSocket | Kind::PauseContainer => self.rng.u64(0..2000),
            Kind::CutServer | Kind::KillApiServer => self.rng.u64(0..2000),
            Kind::StripLabels | Kind::HoldClaim => self.rng.u64(1000..6000),
            Kind::PauseEtcd | Kind::StopKubelet => self.rng.u64(500..6000),
            Kind::FillDisk | Kind::FillEngine => self.rng.u64(200..1500),
            _ => self.rng.u64(0..400),
        };
        Some(Fault {
            kind,
            wait_ms: self.rng.u64(100..=300),
            pick: self.rng.u64(..),
            lasts_ms,
            point: if kind == Kind::Point {
                self.order()
            } else {
                None
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const KINDS: [Weight; 3] = [(Kind::KillAgent, 5), (Kind::FillDisk, 1), (Kind::Point, 8)];

    #[test]
    fn a_seed_is_a_plan() {
        let plan = |seed| {
            Plan::new(seed, KINDS.to_vec(), COMMON_POINTS)
                .take(500)
                .collect::<Vec<_>>()
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_kind_comes_among_the_first_and_every_order_in_its_turn() {
        let plan: Vec<_> = Plan::new(1, KINDS.to_vec(), COMMON_POINTS)
            .take(2000)
            .collect();
        let first: BTreeSet<_> = plan.iter().take(KINDS.len()).map(|it| it.kind).collect();
        assert_eq!(first, KINDS.iter().map(|it| it.0).collect());
        let met: BTreeSet<_> = plan.iter().filter_map(|it| it.point).collect();
        let every = COMMON_POINTS
            .iter()
            .map(|it| it.orders.len())
            .sum::<usize>();
        assert_eq!(met.len(), every);
    }
}
