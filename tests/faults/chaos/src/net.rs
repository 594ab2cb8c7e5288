//! The network between the masters, and how it is broken.
//!
//! Two ways. **Proxies**: every master is reached by the others through a proxy in this process, which knows the asker by its
//! socket; needs nothing, and can hold back and delay what masters say to each other, connection by connection.
//! **Namespaces**: every master lives in a network namespace of its own, and packets are dropped by iptables on their way;
//! needs root, and is as close to a cut cable as one machine gets.
//!
//! Only what masters say to each other is affected: clients reach all of them all the time, and so meet masters that are cut
//! off.

use anyhow::bail;
use triarch_harness::NodeAddress;

pub mod connection_owner;
pub mod namespaces;
pub mod proxies;

use namespaces::Namespaces;
use proxies::{LinkDelay, Proxies};

/// From whom to whom something does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub from: u64,
    pub to: u64,
    pub severed: Severed,
}

/// What does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severed {
    /// With namespaces, every packet from the one to the other; with proxies, all that the one asks the other, and the
    /// answers.
    Everything,
    /// What the one asks the other arrives; the answers to it do not.
    Responses,
}

/// Which network a cluster is put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkKind {
    /// None of ours: masters meet on loopback, and nothing can be cut
    Plain,
    /// Through proxies in this process
    #[value(name = "wires")]
    Proxies,
    /// In network namespaces, with iptables (needs root)
    Namespaces,
}

/// See the module.
pub enum Net {
    /// Nothing between the masters.
    Plain,
    /// Proxies.
    Proxies(Proxies),
    /// Namespaces.
    Namespaces(Namespaces),
}

impl Net {
    /// One for so many masters.
    pub async fn make(kind: NetworkKind, masters: u64) -> anyhow::Result<Self> {
        Ok(match kind {
            NetworkKind::Plain => Net::Plain,
            NetworkKind::Proxies => Net::Proxies(Proxies::start(masters).await?),
            NetworkKind::Namespaces => Net::Namespaces(Namespaces::make(masters)?),
        })
    }

    /// Where the masters run.
    pub fn addresses(&self) -> Vec<NodeAddress> {
        match self {
            Net::Plain => Vec::new(),
            Net::Proxies(proxies) => proxies.addresses(),
            Net::Namespaces(namespaces) => namespaces.addresses(),
        }
    }

    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Net::Plain => "plain",
            Net::Proxies(_) => "wires",
            Net::Namespaces(_) => "namespaces",
        }
    }

    /// Cuts these, and nothing else.
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

    /// Makes everything between this master and the others late.
    pub fn delay(&self, master: u64, others: &[u64], late: LinkDelay) -> anyhow::Result<()> {
        match self {
            Net::Proxies(proxies) => {
                proxies.delay(master, others, late);
                Ok(())
            }
            Net::Plain | Net::Namespaces(_) => bail!("only proxies can delay"),
        }
    }

    /// Loses so many of a hundred packets between this master and the others.
    pub fn lose(&self, master: u64, others: &[u64], percent: u32) -> anyhow::Result<()> {
        match self {
            Net::Namespaces(namespaces) => namespaces.lose(master, others, percent),
            Net::Plain | Net::Proxies(_) => bail!("only namespaces can lose packets"),
        }
    }

    /// What was held back or dropped since the last cut.
    pub async fn held_back(&self) -> anyhow::Result<u64> {
        match self {
            Net::Plain => Ok(0),
            Net::Proxies(proxies) => Ok(proxies.held_back()),
            Net::Namespaces(namespaces) => namespaces.dropped(),
        }
    }

    /// Of what.
    pub fn unit(&self) -> &'static str {
        match self {
            Net::Plain | Net::Proxies(_) => "pieces of messages held back",
            Net::Namespaces(_) => "packets dropped",
        }
    }

    /// Everything arrives again.
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
