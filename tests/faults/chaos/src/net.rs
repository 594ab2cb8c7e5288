//! The network between the masters, and the ways to break it.
//!
//! There are two kinds:
//!
//! - **Proxies**: every master reaches the others through a proxy in this process. The proxy identifies the sender by
//!   its socket. This needs no privileges, and can hold back and delay messages per connection.
//! - **Namespaces**: every master runs in a network namespace of its own, and iptables drops packets between them. This
//!   needs root, and is as close to a cut cable as one machine gets.
//!
//! Only messages between masters are affected. Clients reach all masters all the time, masters that are cut off
//! included.

use anyhow::bail;
use triarch_harness::NodeAddress;

pub mod connection_owner;
pub mod namespaces;
pub mod proxies;

use namespaces::Namespaces;
use proxies::{LinkDelay, Partial, Proxies};

/// A direction in which messages are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub from: u64,
    pub to: u64,
    pub severed: Severed,
}

/// The messages that are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severed {
    /// With namespaces, every packet in this direction. With proxies, all requests in this direction and their answers.
    Everything,
    /// Only the answers to requests in this direction. The requests arrive.
    Responses,
}

/// Kind of network of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkKind {
    /// Loopback, where nothing can be cut
    Plain,
    /// Proxies in this process
    #[value(name = "wires")]
    Proxies,
    /// Network namespaces with iptables (needs root)
    Namespaces,
}

/// The network of a cluster.
pub enum Net {
    /// The loopback interface.
    Plain,
    /// Proxies between the masters.
    Proxies(Proxies),
    /// A network namespace for each master.
    Namespaces(Namespaces),
}

impl Net {
    /// Creates the network for this many masters.
    pub async fn make(kind: NetworkKind, masters: u64) -> anyhow::Result<Self> {
        Ok(match kind {
            NetworkKind::Plain => Net::Plain,
            NetworkKind::Proxies => Net::Proxies(Proxies::start(masters).await?),
            NetworkKind::Namespaces => Net::Namespaces(Namespaces::make(masters)?),
        })
    }

    /// Returns the addresses at which the masters run.
    pub fn addresses(&self) -> Vec<NodeAddress> {
        match self {
            Net::Plain => Vec::new(),
            Net::Proxies(proxies) => proxies.addresses(),
            Net::Namespaces(namespaces) => namespaces.addresses(),
        }
    }

    /// Returns the name of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            Net::Plain => "plain",
            Net::Proxies(_) => "wires",
            Net::Namespaces(_) => "namespaces",
        }
    }

    /// Cuts these directions and heals all others.
    pub async fn sever(&self, links: &[Link]) -> anyhow::Result<()> {
        match self {
            Net::Plain => bail!("masters that meet on loopback cannot be cut off"),
            Net::Proxies(proxies) => {
                proxies.sever(links);
                Ok(())
            }
            Net::Namespaces(namespaces) => namespaces.sever(links),
        }
    }

    /// Delays all messages between this master and the others.
    pub fn delay(&self, master: u64, others: &[u64], late: LinkDelay) -> anyhow::Result<()> {
        match self {
            Net::Proxies(proxies) => {
                proxies.delay(master, others, late);
                Ok(())
            }
            Net::Plain | Net::Namespaces(_) => bail!("only proxies can delay"),
        }
    }

    /// Lets only a part of the requests from these masters to the others pass.
    pub fn let_pass_in_part(
        &self,
        askers: &[u64],
        masters: &[u64],
        partial: Partial,
    ) -> anyhow::Result<()> {
        match self {
            Net::Proxies(proxies) => {
                proxies.let_pass_in_part(askers, masters, partial);
                Ok(())
            }
            Net::Plain | Net::Namespaces(_) => bail!("only wires know connections and messages"),
        }
    }

    /// Loses this percentage of the packets between this master and the others.
    pub fn lose(&self, master: u64, others: &[u64], percent: u32) -> anyhow::Result<()> {
        match self {
            Net::Namespaces(namespaces) => namespaces.lose(master, others, percent),
            Net::Plain | Net::Proxies(_) => bail!("only namespaces can lose packets"),
        }
    }

    /// Returns the number of messages or packets held back or dropped since the last cut.
    pub async fn held_back(&self) -> anyhow::Result<u64> {
        match self {
            Net::Plain => Ok(0),
            Net::Proxies(proxies) => Ok(proxies.held_back()),
            Net::Namespaces(namespaces) => namespaces.dropped(),
        }
    }

    /// Returns the unit of that number.
    pub fn unit(&self) -> &'static str {
        match self {
            Net::Plain | Net::Proxies(_) => "pieces of messages held back",
            Net::Namespaces(_) => "packets dropped",
        }
    }

    /// Heals all directions.
    pub async fn heal(&self) -> anyhow::Result<()> {
        match self {
            Net::Plain => Ok(()),
            Net::Proxies(proxies) => {
                proxies.heal();
                Ok(())
            }
            Net::Namespaces(namespaces) => namespaces.heal(),
        }
    }
}
