//! Many clients at once: objects of 1 KiB to the storage server and to redis, in turn, by the same loop.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::redis;
use super::{body, check};
use crate::Result;
use crate::bench::Bench;
use crate::clients::together;
use crate::http::Connection;
use crate::report::{Row, Unit};

/// One connection, whatever it speaks.
trait Client: Send {
    fn put(&mut self, key: &str, value: &[u8]) -> Result<()>;
    fn get(&mut self, key: &str) -> Result<Vec<u8>>;
}

impl Client for Connection {
    fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.request("PUT", &format!("/v1/objects/{key}"), value)?;
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.request("GET", &format!("/v1/objects/{key}"), b"")
    }
}

impl Client for redis::Client {
    fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.set(key, value)
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.get(key)
    }
}

#[derive(Clone, Copy)]
enum Op {
    Put,
    Get,
}

/// What one server did: a row of rates and one of times for each operation.
struct Subject {
    clients: Vec<Mutex<Box<dyn Client>>>,
    rows: [[Row; 2]; 2],
}

impl Subject {
    fn new(
        name: &str,
        count: usize,
        open: impl Fn() -> Result<Box<dyn Client>>,
        peer: Option<&str>,
    ) -> Result<Self> {
        Ok(Self {
            clients: (0..count)
                .map(|_| open().map(Mutex::new))
                .collect::<Result<_>>()?,
            rows: rows(name, count, peer),
        })
    }

    /// Each client does so many operations, one after the other; their objects are those of this round.
    fn run(&mut self, op: Op, round: usize, each: usize) -> Result<(f64, Vec<Duration>)> {
        let clients = &self.clients;
        let started = Instant::now();
        let times = together(clients.len(), |number| {
            let mut client = clients
                .get(number)
                .and_then(|it| it.lock().ok())
                .ok_or("a client that failed before")?;
            let mut times = Vec::with_capacity(each);
            for object in 0..each {
                let key = format!("{}-{round}-{number}-{object}", clients.len());
                let value = body(round + number + object);
                let asked = Instant::now();
                match op {
                    Op::Put => {
                        client.put(&key, &value)?;
                        times.push(asked.elapsed());
                    }
                    Op::Get => {
                        let found = client.get(&key)?;
                        times.push(asked.elapsed());
                        check(&found, &value)?;
                    }
                }
            }
            Ok(times)
        })?;
        let took = started.elapsed().as_secs_f64();
        let times = times.concat();
        Ok((times.len() as f64 / took, times))
    }

    fn round(&mut self, op: Op, round: usize, each: usize) -> Result<()> {
        let (rate, times) = self.run(op, round, each)?;
        // The first round does not count.
        if round > 0 {
            let [rates, all] = &mut self.rows[op as usize];
            rates.add(rate);
            times.iter().for_each(|it| all.add(it.as_secs_f64()));
        }
        Ok(())
    }
}

/// PUT and GET, as rates and as times.
fn rows(name: &str, count: usize, peer: Option<&str>) -> [[Row; 2]; 2] {
    ["PUT", "GET"].map(|op| {
        [("", Unit::Rate), (", each", Unit::Time)].map(|(what, unit)| {
            let title = |name: &str| format!("{name}: {op} 1 KiB, clients at once: {count}{what}");
            let row = Row::of(title(name), unit);
            match peer {
                Some(peer) => row.beside(title(peer)),
                None => row,
            }
        })
    })
}

/// The rows for so many clients. Where redis is missing, its rows say why.
pub(crate) fn measure(
    bench: &Bench,
    server: SocketAddr,
    redis: &std::result::Result<SocketAddr, String>,
    count: usize,
) -> Result<Vec<Row>> {
    const OURS: &str = "grid-storage";
    const PEER: &str = "redis, `appendfsync always`";
    let rounds = bench.sized(10, 1);
    let each = bench.sized(400 / count.isqrt(), 2);
    let mut ours = Subject::new(
        OURS,
        count,
        || Ok(Box::new(Connection::open(server)?)),
        Some(PEER),
    )?;
    let mut peer = match redis {
        Ok(address) => Ok(Subject::new(
            PEER,
            count,
            || Ok(Box::new(redis::Client::open(*address)?)),
            None,
        )?),
        Err(why) => Err(why),
    };
    for round in 0..=rounds {
        for op in [Op::Put, Op::Get] {
            ours.round(op, round, each)?;
            if let Ok(peer) = &mut peer {
                peer.round(op, round, each)?;
            }
        }
    }
    let peers = match peer {
        Ok(peer) => peer.rows,
        Err(why) => rows(PEER, count, None).map(|it| it.map(|row| row.not_run(why.as_str()))),
    };
    let both = ours.rows.into_iter().zip(peers);
    Ok(both
        .flat_map(|(ours, peers)| ours.into_iter().zip(peers))
        .flat_map(|(ours, peer)| [ours, peer])
        .collect())
}
