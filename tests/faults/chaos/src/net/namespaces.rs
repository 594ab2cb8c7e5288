//! Network namespaces: one for each master, all on one bridge, with packets dropped by iptables.
//!
//! The bridge is in a namespace of its own, so that no firewall of this machine affects the masters. This process
//! reaches them over one interface. All names contain the id of this process, and everything is removed at the end.
//! After an end by SIGKILL, the next run removes what is left.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use triarch_harness::NodeAddress;
use triarch_harness::addresses::PORT_BASE;

use super::{Link, Severed};

const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "triarch-";
/// Name of the iptables chain with the rules of this module, in each master's namespace.
const CHAIN: &str = "TRIARCH";
/// Network of the addresses. 198.18.0.0/16 is reserved for tests of networks and is not routed.
const NET: [u8; 2] = [198, 18];
/// Address of this process in the network.
const OWN: u8 = 254;

/// The namespaces of one cluster. Dropping this removes them, so the masters must have exited before.
pub struct Namespaces {
    third: u8,
    masters: u64,
}

/// Returns the reason why this machine does not support namespaces, if it does not.
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(
            "network namespaces take root; run it with sudo, or with --network wires".to_owned(),
        );
    }
    let tools = [
        ("ip", "-V", "iproute2"),
        ("iptables", "--version", "iptables"),
    ];
    let missing = tools
        .into_iter()
        .find(|(tool, ask, _)| run(tool, &[ask]).is_err());
    missing.map(|(tool, _, package)| format!("it needs {tool} (Debian: apt-get install {package})"))
}

impl Namespaces {
    /// Creates the namespaces.
    pub fn make(masters: u64) -> anyhow::Result<Self> {
        if let Some(obstacle) = obstacle() {
            bail!("{obstacle}");
        }
        sweep();
        let addresses = run("ip", &["-o", "-4", "addr"])?;
        let start = std::process::id() as u8;
        let [a, b] = NET;
        let third = (0..=u8::MAX)
            .map(|nth| start.wrapping_add(nth))
            .find(|third| !addresses.contains(&format!(" {a}.{b}.{third}.")));
        let third = third.context("all of 198.18.0.0/16 is in use here")?;
        // Dropping this also removes namespaces that are created only in part.
        let made = Self { third, masters };
        let hub = made.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        let outside = made.outside();
        ip(&[
            "link", "add", &outside, "type", "veth", "peer", "name", "out", "netns", &hub,
        ])?;
        ip(&["-n", &hub, "link", "set", "out", "master", "bridge", "up"])?;
        let own = format!("{}/24", made.ip(OWN));
        ip(&["addr", "add", &own, "dev", &outside])?;
        ip(&["link", "set", &outside, "up"])?;
        for node in 1..=masters {
            let (name, port) = (made.name(node), format!("m{node}"));
            ip(&["netns", "add", &name])?;
            ip(&[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                &name,
            ])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            let address = format!("{}/24", made.ip(node as u8));
            ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            made.iptables(node, &["-N", CHAIN])?;
            made.iptables(node, &["-A", "INPUT", "-j", CHAIN])?;
        }
        Ok(made)
    }

    fn name(&self, node: u64) -> String {
        format!("{PREFIX}{}-{node}", std::process::id())
    }

    fn hub(&self) -> String {
        format!("{PREFIX}{}-hub", std::process::id())
    }

    /// Names of interfaces have 15 characters at most.
    fn outside(&self) -> String {
        format!("tri{}", std::process::id())
    }

    fn ip(&self, last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(NET[0], NET[1], self.third, last))
    }

    /// Returns the addresses at which the masters run.
    pub fn addresses(&self) -> Vec<NodeAddress> {
        (1..=self.masters)
            .map(|node| {
                let listen = SocketAddr::new(self.ip(node as u8), PORT_BASE + node as u16);
                NodeAddress {
                    listen,
                    advertised: listen,
                    namespace: Some(Path::new(NAMESPACES).join(self.name(node))),
                }
            })
            .collect()
    }

    fn iptables(&self, node: u64, arguments: &[&str]) -> anyhow::Result<String> {
        let name = self.name(node);
        let mut all = vec!["netns", "exec", &name, "iptables", "-w"];
        all.extend(arguments);
        run("ip", &all)
    }

    /// Drops these packets and no others.
    pub fn sever(&self, links: &[Link]) -> anyhow::Result<()> {
        self.heal()?;
        for link in links {
            let source = self.ip(link.from as u8).to_string();
            match link.severed {
                Severed::Everything => {
                    self.iptables(link.to, &["-A", CHAIN, "-s", &source, "-j", "DROP"])?;
                }
                // An answer comes from the port on which the receiver of the request listens.
                Severed::Responses => {
                    let asked = self.ip(link.to as u8).to_string();
                    let port = (u64::from(PORT_BASE) + link.to).to_string();
                    let from = ["-A", CHAIN, "-s", &asked, "-p", "tcp", "--sport", &port];
                    self.iptables(link.from, &[&from[..], &["-j", "DROP"]].concat())?;
                }
            }
        }
        Ok(())
    }

    /// Drops this percentage of the packets between this master and the others, at random.
    pub fn lose(&self, master: u64, others: &[u64], percent: u32) -> anyhow::Result<()> {
        self.heal()?;
        let share = format!("{:.2}", f64::from(percent) / 100.0);
        for other in others {
            for (from, to) in [(master, *other), (*other, master)] {
                let source = self.ip(from as u8).to_string();
                let lost = [
                    "-m",
                    "statistic",
                    "--mode",
                    "random",
                    "--probability",
                    &share,
                ];
                let rule = [&["-A", CHAIN, "-s", &source], &lost[..], &["-j", "DROP"]].concat();
                self.iptables(to, &rule)?;
            }
        }
        Ok(())
    }

    /// Returns the number of packets that the rules have dropped, as iptables counts them.
    pub fn dropped(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for node in 1..=self.masters {
            let listed = self.iptables(node, &["-L", CHAIN, "-v", "-x", "-n"])?;
            let counts = listed.lines().skip(2);
            sum += counts
                .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(sum)
    }

    /// Deletes all rules.
    pub fn heal(&self) -> anyhow::Result<()> {
        for node in 1..=self.masters {
            self.iptables(node, &["-F", CHAIN])?;
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove(std::process::id());
    }
}

/// Removes namespaces of earlier runs that were ended by SIGKILL.
fn sweep() {
    for name in names() {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner.and_then(|pid| pid.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            remove(pid);
        }
    }
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(NAMESPACES)
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Removes the namespaces of this process, with all interfaces in them and their peers.
fn remove(pid: u32) {
    let prefix = format!("{PREFIX}{pid}-");
    for name in names().iter().filter(|name| name.starts_with(&prefix)) {
        if let Err(error) = ip(&["netns", "del", name]) {
            eprintln!("{error:#}");
        }
    }
    // The peer interface disappears with the bridge's namespace, but not at once.
    let _ = ip(&["link", "del", &format!("tri{pid}")]);
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run("ip", arguments).map(|_| ())
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        // These commands ignore Ctrl-C, because this process needs them to clean up after Ctrl-C.
        .process_group(0)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
