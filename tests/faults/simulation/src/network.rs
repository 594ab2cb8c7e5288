//! The simulated network: TCP connections over links that are slow, lose packets, or are cut in one or both directions.
//! Lost packets are sent again, so bytes arrive late but in order within a connection. Between connections there is no
//! order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::process::{Ns, ProcessInput};
use crate::world::{Actor, CLIENTS_FROM, Event, Host, MS, SECOND, World};

const REFUSED: u32 = 111;
const RESET: u32 = 104;
const TIMED_OUT: u32 = 110;

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Caller,
    Called,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Caller => Side::Called,
            Side::Called => Side::Caller,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Syn,
    SynAck,
    Ack,
    Data(Vec<u8>),
    Fin,
    Reset { errno: u32 },
}

/// One direction of a connection, with its sender.
#[derive(Debug, Default)]
struct Half {
    open: bool,
    fin_sent: bool,
    last_arrival: Ns,
    held: VecDeque<Packet>,
}

#[derive(Debug)]
pub struct Connection {
    pub caller: Host,
    pub called: Host,
    port: u16,
    caller_port: u16,
    halves: [Half; 2],
}

impl Connection {
    fn half(&mut self, side: Side) -> &mut Half {
        &mut self.halves[side as usize]
    }

    fn host(&self, side: Side) -> Host {
        match side {
            Side::Caller => self.caller,
            Side::Called => self.called,
        }
    }
}

/// The end of a connection that a client in the simulator holds.
#[derive(Debug, Default)]
pub struct Endpoint {
    pub actor: Actor,
    pub connected: bool,
    pub ended: bool,
    pub failed: Option<u32>,
    pub received: Vec<u8>,
}

/// Payload of one packet, in bytes.
const PACKET_BYTES: usize = 1_400;

/// State of the links.
#[derive(Debug)]
pub struct Links {
    /// From, to: nothing arrives.
    pub cut: BTreeSet<(Host, Host)>,
    /// From, to: answers of the called side are lost, and requests of the calling side arrive.
    pub answers_cut: BTreeSet<(Host, Host)>,
    /// From, to: what one who calls asks gets lost where it is larger than a packet.
    pub large_cut: BTreeSet<(Host, Host)>,
    pub latency_ns: (Ns, Ns),
    /// Additional delay of slow links.
    pub slower: BTreeMap<(Host, Host), Ns>,
    /// Percentage of packets that are lost and sent again.
    pub loss_percent: u64,
}

impl Default for Links {
    fn default() -> Self {
        Links {
            cut: BTreeSet::new(),
            answers_cut: BTreeSet::new(),
            large_cut: BTreeSet::new(),
            latency_ns: (50_000, 300_000),
            slower: BTreeMap::new(),
            loss_percent: 0,
        }
    }
}

impl World {
    /// Returns the end of a connection that is at this host.
    pub fn side_of(&self, connection: u64, host: Host) -> Option<Side> {
        let connection = self.connections.get(&connection)?;
        if connection.caller == host {
            Some(Side::Caller)
        } else {
            (connection.called == host).then_some(Side::Called)
        }
    }

    pub fn connect(&mut self, number: u64, from: Host, to: Host, port: u16, own_port: u16, at: Ns) {
        let mut connection = Connection {
            caller: from,
            called: to,
            port,
            caller_port: own_port,
            halves: [Half::default(), Half::default()],
        };
        connection.half(Side::Caller).open = true;
        self.connections.insert(number, connection);
        self.send(number, Side::Caller, at, Packet::Syn);
    }

    pub fn send(&mut self, number: u64, from: Side, at: Ns, packet: Packet) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let link = (connection.host(from), connection.host(from.other()));
        let (least, most) = self.links.latency_ns;
        let mut takes =
            self.random.between(least, most) + self.links.slower.get(&link).copied().unwrap_or(0);
        if self.links.loss_percent > 0 && self.random.percent(self.links.loss_percent) {
            self.stats.packets_lost += 1;
            takes += self.random.between(200 * MS, 400 * MS);
        }
        let half = connection.half(from);
        let arrival = (at + takes).max(half.last_arrival + 1);
        half.last_arrival = arrival;
        self.at(
            arrival,
            Event::Deliver {
                connection: number,
                from,
                packet,
            },
        );
    }

    pub fn send_fin(&mut self, number: u64, from: Side, at: Ns) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if !std::mem::replace(&mut connection.half(from).fin_sent, true) {
            self.send(number, from, at, Packet::Fin);
        }
    }

    /// The host no longer reads from this connection.
    pub fn close(&mut self, number: u64, side: Side, at: Ns) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        connection.half(side).open = false;
        self.send_fin(number, side, at);
    }

    /// Returns whether this packet is lost on its way.
    fn held_back(&self, side: Side, from: Host, to: Host, packet: &Packet) -> bool {
        let large = matches!(packet, Packet::Data(bytes) if bytes.len() > PACKET_BYTES);
        self.links.cut.contains(&(from, to))
            || (side == Side::Called && self.links.answers_cut.contains(&(from, to)))
            || (large && side == Side::Caller && self.links.large_cut.contains(&(from, to)))
            || self.machines.get(&to).is_some_and(|machine| machine.off)
    }

    pub fn deliver(&mut self, number: u64, from: Side, packet: Packet) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let (host, to) = (connection.host(from), connection.host(from.other()));
        let cut = self.held_back(from, host, to, &packet);
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if cut || !connection.half(from).held.is_empty() {
            connection.half(from).held.push_back(packet);
            self.stats.packets_held += 1;
            return;
        }
        self.arrive(number, from, packet);
    }

    pub fn flush(&mut self, number: u64, from: Side) {
        loop {
            let Some(connection) = self.connections.get(&number) else {
                return;
            };
            let (host, to) = (connection.host(from), connection.host(from.other()));
            let Some(next) = connection.halves[from as usize].held.front() else {
                return;
            };
            if self.held_back(from, host, to, next) {
                return;
            }
            let Some(connection) = self.connections.get_mut(&number) else {
                return;
            };
            let Some(packet) = connection.half(from).held.pop_front() else {
                return;
            };
            self.arrive(number, from, packet);
        }
    }

    /// After the repair of links or the return of a machine, packets that were held are sent again soon.
    pub fn retransmit(&mut self) {
        let held: Vec<(u64, Side)> = self
            .connections
            .iter()
            .flat_map(|(number, connection)| {
                [Side::Caller, Side::Called]
                    .into_iter()
                    .filter(|side| !connection.halves[*side as usize].held.is_empty())
                    .map(|side| (*number, side))
            })
            .collect();
        for (connection, from) in held {
            let at = self.now + self.random.between(5 * MS, 400 * MS);
            self.at(at, Event::Flush { connection, from });
        }
    }

    fn arrive(&mut self, number: u64, from: Side, packet: Packet) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let to = from.other();
        let (host, port) = (connection.host(to), connection.port);
        let (peer, peer_port) = (u32::from(connection.caller), connection.caller_port);
        let open = connection.half(to).open;
        let now = self.now;
        match packet {
            Packet::Syn => {
                let listens = self
                    .machines
                    .get(&host)
                    .is_some_and(|m| m.listens.contains(&port));
                let answer = if listens {
                    Packet::SynAck
                } else {
                    Packet::Reset { errno: REFUSED }
                };
                self.send(number, to, now, answer);
            }
            Packet::SynAck if open => {
                self.send(number, to, now, Packet::Ack);
                self.send_endpoint_input(
                    host,
                    number,
                    ProcessInput::Connected { connection: number },
                );
            }
            Packet::Ack => {
                if self
                    .machines
                    .get(&host)
                    .is_some_and(|m| m.listens.contains(&port))
                {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.half(to).open = true;
                    }
                    let peer = 0x0A00_0000 + peer;
                    self.send_endpoint_input(
                        host,
                        number,
                        ProcessInput::Incoming {
                            connection: number,
                            port,
                            peer,
                            peer_port,
                        },
                    );
                } else {
                    self.send(number, to, now, Packet::Reset { errno: RESET });
                }
            }
            Packet::Data(bytes) if open => self.send_endpoint_input(
                host,
                number,
                ProcessInput::Data {
                    connection: number,
                    bytes,
                },
            ),
            Packet::Fin => {
                if open {
                    self.send_endpoint_input(
                        host,
                        number,
                        ProcessInput::Ended { connection: number },
                    );
                }
                self.forget_if_over(number);
            }
            Packet::Reset { errno } => {
                if open {
                    self.send_endpoint_input(
                        host,
                        number,
                        ProcessInput::Failed {
                            connection: number,
                            errno,
                        },
                    );
                }
                self.connections.remove(&number);
            }
            // No process is left to receive it.
            Packet::SynAck | Packet::Data(_) => {
                self.send(number, to, now, Packet::Reset { errno: RESET })
            }
        }
    }

    fn forget_if_over(&mut self, number: u64) {
        let over = self
            .connections
            .get(&number)
            .is_some_and(|c| c.halves.iter().all(|half| half.fin_sent && !half.open));
        if over {
            self.connections.remove(&number);
        }
    }

    /// Delivers an event to a process or to a client.
    fn send_endpoint_input(&mut self, host: Host, number: u64, input: ProcessInput) {
        if host < CLIENTS_FROM {
            if let Some(machine) = self
                .machines
                .get_mut(&host)
                .filter(|machine| machine.runs())
            {
                machine.inbox.push(input);
                machine.wake_at = machine.wake_at.min(self.now);
            }
            return;
        }
        let Some(endpoint) = self.endpoints.get_mut(&number) else {
            return;
        };
        match input {
            ProcessInput::Connected { .. } => endpoint.connected = true,
            ProcessInput::Data { bytes, .. } => endpoint.received.extend(bytes),
            ProcessInput::Ended { .. } => endpoint.ended = true,
            ProcessInput::Failed { errno, .. } => endpoint.failed = Some(errno),
            ProcessInput::Incoming { .. }
            | ProcessInput::Clock { .. }
            | ProcessInput::Cut { .. }
            | ProcessInput::Space { .. }
            | ProcessInput::SyncTime { .. }
            | ProcessInput::FailSyncs { .. }
            | ProcessInput::EndAfter { .. } => {}
        }
        self.runnable.push_back(endpoint.actor);
    }

    /// The process at this host is gone. Its system closes its connections, unless the whole machine is down.
    pub fn hang_up(&mut self, host: Host, silently: bool) {
        let theirs: Vec<(u64, Side)> = self
            .connections
            .keys()
            .filter_map(|number| Some((*number, self.side_of(*number, host)?)))
            .collect();
        let now = self.now;
        for (number, side) in theirs {
            let Some(connection) = self.connections.get_mut(&number) else {
                continue;
            };
            let half = connection.half(side);
            half.open = false;
            if silently {
                half.fin_sent = true;
                let at = now + self.random.between(8 * SECOND, 12 * SECOND);
                self.at(at, Event::KeepAlive { connection: number });
            } else if self.random.percent(50) {
                self.send_fin(number, side, now);
            } else {
                self.send(number, side, now, Packet::Reset { errno: RESET });
            }
        }
    }

    pub fn keep_alive(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        for side in [Side::Caller, Side::Called] {
            if connection.halves[side as usize].open {
                let host = connection.host(side);
                self.send_endpoint_input(
                    host,
                    number,
                    ProcessInput::Failed {
                        connection: number,
                        errno: TIMED_OUT,
                    },
                );
                break;
            }
        }
        self.connections.remove(&number);
    }
}
