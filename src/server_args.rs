//! `triarch server`: runs one node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use triarch_cli::usage_error;
use triarch_node::{MemoryBounds, ServerLimits, ServerOptions, Timing, memory_limit};
use triarch_raft::Level;

use crate::address::{check_listen, host_name, host_port, listen_address, node_url};
use crate::logging::LogArgs;

/// Runs one master
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("membership").args(["cluster", "join"]).required(true)),
    after_help = "To form a cluster, start every node with the same --cluster, in any order. The same command restarts a \
                  node."
)]
pub struct ServerArgs {
    /// Id of this node in the cluster, at least 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Address on which this node accepts connections [default: its address in --cluster]
    #[arg(long, value_name = "HOST:PORT", value_parser = listen_address)]
    listen: Option<String>,
    /// Address at which others reach this node, if it differs from --listen
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    advertise: Option<String>,
    /// Directory of the log, the snapshots and this node's identity; created if missing
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Initial members of the cluster, including this node
    #[arg(long, value_name = "ID=HOST:PORT,…", value_delimiter = ',', value_parser = member)]
    cluster: Vec<(u64, String)>,
    /// Masters of a running cluster to join: the node starts empty and waits until `triarch cluster add` adds it
    #[arg(long, value_name = "URL,…", value_delimiter = ',', value_parser = node_url)]
    join: Vec<String>,
    /// Further host names by which clients address this node, such as that of a proxy. IP addresses, localhost and the
    /// members' hosts need no entry
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = host_name)]
    allowed_host: Vec<String>,
    /// Preset of the timeouts between masters: `lan` for one machine room, `wan` for distant regions or slow disks
    #[arg(long, value_enum, default_value_t = TimingPreset::Lan, help_heading = "Timing")]
    timing: TimingPreset,
    /// Interval of the leader's heartbeats to its followers, in ms [default: from --timing]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000), help_heading = "Timing")]
    heartbeat_ms: Option<u64>,
    /// Time without a heartbeat after which a follower starts an election, in ms [default: from --timing]
    #[arg(long, value_name = "MIN..MAX", value_parser = ms_range, help_heading = "Timing")]
    election_ms: Option<(u64, u64)>,
    /// Time without a heartbeat after which a worker loses its leases, in ms
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(100..=86_400_000),
        help_heading = "Timing"
    )]
    lease_ms: u64,
    /// Log entries after which a snapshot is due, once the log has also grown by about the size of the last one. A quarter
    /// as many entries before the snapshot are kept
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(4..=100_000_000),
        help_heading = "Bounds"
    )]
    snapshot_entries: u32,
    /// Maximum past events kept in memory, for readers that reconnect and resume
    #[arg(
        long,
        alias = "events-kept",
        value_name = "N",
        default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..=10_000_000),
        help_heading = "Bounds"
    )]
    event_history: u32,
    /// Log entries between two comparisons of the masters' tables; must be the same on all masters
    #[arg(
        long,
        alias = "check-every",
        value_name = "N",
        default_value_t = 4_096,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000),
        help_heading = "Bounds"
    )]
    digest_interval: u64,
    /// Maximum open connections of clients and workers; more are refused with 503
    #[arg(
        long,
        alias = "connections-max",
        value_name = "N",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        help_heading = "Bounds"
    )]
    max_connections: u32,
    /// Maximum open connections of one client address; idle ones are closed for new ones [default: three quarters of
    /// --max-connections]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        help_heading = "Bounds"
    )]
    max_connections_per_client: Option<u32>,
    /// Maximum concurrent client requests, long polls not counted; more are refused with 429
    #[arg(
        long,
        alias = "requests-max",
        value_name = "N",
        default_value_t = 4_096,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        help_heading = "Bounds"
    )]
    max_requests: u32,
    /// Memory in MiB that this node may use: three eighths of it, at most 4 GiB, are for the table, and tasks beyond are
    /// refused with 429 [default: the limit of the control group, or the memory of the machine]
    #[arg(
        long,
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(64..=16_777_216),
        help_heading = "Bounds"
    )]
    max_memory_mib: Option<u64>,
    /// Maximum memory in MiB for the bodies of client requests; bodies that do not fit are refused with 429 [default: a
    /// sixteenth of --max-memory-mib, at most 256]
    #[arg(
        long,
        alias = "bodies-mib",
        value_name = "MIB",
        value_parser = clap::value_parser!(u32).range(1..=65_536),
        help_heading = "Bounds"
    )]
    max_body_memory_mib: Option<u32>,
    /// Maximum memory in MiB for answers that clients have not read yet; reads whose answer does not fit are refused with
    /// 429 [default: a sixteenth of --max-memory-mib, at most 256]
    #[arg(
        long,
        value_name = "MIB",
        value_parser = clap::value_parser!(u32).range(1..=65_536),
        help_heading = "Bounds"
    )]
    max_answer_memory_mib: Option<u32>,
    /// Free disk space in MiB below which this node accepts no writes until there is space again [default: 5 % of the
    /// disk, at least 8 and at most 64]
    #[arg(
        long,
        alias = "disk-low-mib",
        value_name = "MIB",
        value_parser = clap::value_parser!(u64).range(1..=1_048_576),
        help_heading = "Bounds"
    )]
    min_free_disk_mib: Option<u64>,
    /// Highest level of formats to understand, to behave as an older program: for tests of upgrades
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Level::HIGHEST.number())))]
    announce_level: Option<u32>,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TimingPreset {
    Lan,
    Wan,
}

impl ServerArgs {
    /// Runs the node until it is stopped.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let log = self.log.clone();
        let options = match self.options() {
            Ok(options) => options,
            Err(message) => return Ok(usage_error(&message)),
        };
        if let Err(message) = log.install() {
            return Ok(usage_error(&message));
        }
        triarch_node::run(options)
    }

    /// Validates what clap cannot, and derives the options that follow from others.
    fn options(self) -> Result<ServerOptions, String> {
        let mut cluster = BTreeMap::new();
        for (id, addr) in self.cluster {
            if cluster.values().any(|other| *other == addr) {
                return Err(format!("--cluster names the address {addr} twice"));
            }
            if cluster.insert(id, addr).is_some() {
                return Err(format!("--cluster names node {id} twice"));
            }
        }
        let own = cluster.get(&self.id).cloned();
        if !cluster.is_empty() && own.is_none() {
            return Err(format!(
                "--cluster does not contain this node: add {}=HOST:PORT to it",
                self.id
            ));
        }
        let listen = self.listen.or(own).ok_or(
            "--join needs --listen: add the HOST:PORT on which this node accepts connections",
        )?;
        check_listen(&listen)?;
        let preset = match self.timing {
            TimingPreset::Lan => Timing::LAN,
            TimingPreset::Wan => Timing::WAN,
        };
        let (election_min_ms, election_max_ms) = self
            .election_ms
            .unwrap_or((preset.election_min_ms, preset.election_max_ms));
        let timing = Timing {
            heartbeat_ms: self.heartbeat_ms.unwrap_or(preset.heartbeat_ms),
            election_min_ms,
            election_max_ms,
        };
        if timing.heartbeat_ms * 2 > timing.election_min_ms {
            return Err(format!(
                "followers that wait only {} ms would start elections against a leader that sends heartbeats every {} ms: \
                 make MIN of --election-ms at least twice --heartbeat-ms",
                timing.election_min_ms, timing.heartbeat_ms
            ));
        }
        let memory_bytes = self.max_memory_mib.map(|mib| mib << 20);
        let memory_bytes = memory_bytes.or_else(memory_limit::detect);
        // Where neither is known, the fixed bounds apply.
        let memory = MemoryBounds::within(memory_bytes.unwrap_or(u64::MAX));
        let bytes = |mib: Option<u32>, default: u64| {
            let bytes = mib.map_or(default, |mib| u64::from(mib) << 20);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        Ok(ServerOptions {
            id: self.id,
            listen,
            advertise: self.advertise,
            data_dir: self.data_dir,
            cluster,
            join: self.join,
            allowed_hosts: self.allowed_host,
            timing,
            lease_ms: self.lease_ms,
            snapshot_entries: u64::from(self.snapshot_entries),
            event_history: self.event_history as usize,
            limits: ServerLimits {
                connections_max: self.max_connections as usize,
                client_connections_max: self.max_connections_per_client.map(|max| max as usize),
                requests_max: self.max_requests as usize,
                body_memory_bytes_max: bytes(self.max_body_memory_mib, memory.body_bytes_max),
                answer_memory_bytes_max: bytes(self.max_answer_memory_mib, memory.answer_bytes_max),
                table_memory_bytes_max: memory.table_bytes_max,
            },
            digest_interval: self.digest_interval,
            level_max: self
                .announce_level
                .and_then(Level::new)
                .unwrap_or(Level::HIGHEST),
            min_free_disk_bytes: self.min_free_disk_mib.map(|mib| mib << 20),
        })
    }
}

/// Parses `1=host:port`.
fn member(text: &str) -> Result<(u64, String), String> {
    let wrong = || format!("'{text}' is not ID=HOST:PORT, such as 1=127.0.0.1:7101");
    let (id, addr) = text.split_once('=').ok_or_else(wrong)?;
    let id: u64 = id.parse().map_err(|_| wrong())?;
    if id == 0 {
        return Err("node ids start at 1".to_owned());
    }
    Ok((id, host_port(addr)?))
}

/// Parses `200..350`.
fn ms_range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("'{text}' is not MIN..MAX in milliseconds, such as 200..350");
    let (min, max) = text.split_once("..").ok_or_else(wrong)?;
    let (min, max): (u64, u64) = (
        min.parse().map_err(|_| wrong())?,
        max.parse().map_err(|_| wrong())?,
    );
    if 0 < min && min < max && max <= 600_000 {
        Ok((min, max))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: ServerArgs,
    }

    fn options(line: &str) -> Result<ServerOptions, String> {
        let words = std::iter::once("server").chain(line.split_whitespace());
        Command::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .args
            .options()
    }

    #[test]
    fn a_node_takes_its_address_from_the_cluster_unless_an_option_overrides_it() {
        let cluster = "--cluster 1=127.0.0.1:7101,2=[::1]:7102,3=c.example:7103";
        let got = options(&format!("--id 2 --data-dir d {cluster}")).unwrap();
        assert_eq!(got.listen, "[::1]:7102");
        assert_eq!(got.cluster.len(), 3);
        assert_eq!(got.timing, Timing::LAN);
        let got = options(&format!(
            "--id 3 --listen 0.0.0.0:7103 --data-dir d --timing wan {cluster}"
        ))
        .unwrap();
        assert_eq!(got.listen, "0.0.0.0:7103");
        assert_eq!(got.timing, Timing::WAN);
    }

    #[test]
    fn addresses_are_host_and_port_and_nothing_else() {
        let listen = "--id 1 --data-dir d --cluster 1=a:1 --listen";
        for address in ["0.0.0.0:7101", "[::]:7101", "[fe80::1%eth0]:7101"] {
            let got = options(&format!("{listen} {address}")).unwrap();
            assert_eq!(got.listen, address);
        }
        for wrong in [
            "a",
            "a:0",
            "u@a:1",
            "a:1/x",
            "[fe80::1%]:1",
            "[fe80::1%a/b]:1",
        ] {
            assert!(options(&format!("{listen} {wrong}")).is_err(), "{wrong}");
        }
        let join = "--id 4 --data-dir d --listen b:1 --join";
        let got = options(&format!("{join} http://a:1,http://[::1]:2/,c:3")).unwrap();
        assert_eq!(got.join, ["a:1", "[::1]:2", "c:3"]);
        for wrong in ["https://a:1", "http://a", "http://u@a:1", "http://a:1/x?y"] {
            assert!(options(&format!("{join} {wrong}")).is_err(), "{wrong}");
        }
        let members = "--id 1 --data-dir d --cluster";
        for wrong in ["1=u:p@a:1", "1=a:1/path", "1=a:1#", "1=a:1?x:80"] {
            assert!(options(&format!("{members} {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn old_spellings_of_options_are_still_accepted() {
        let node = "--id 1 --data-dir d --cluster 1=a:1";
        for (new, old) in [
            ("--digest-interval", "--check-every"),
            ("--event-history", "--events-kept"),
            ("--max-connections", "--connections-max"),
            ("--max-requests", "--requests-max"),
            ("--max-body-memory-mib", "--bodies-mib"),
            ("--min-free-disk-mib", "--disk-low-mib"),
        ] {
            let parsed = |name: &str| format!("{:?}", options(&format!("{node} {name} 77")));
            let default = format!("{:?}", options(node));
            assert_eq!(parsed(new), parsed(old), "{old}");
            assert_ne!(parsed(new), default, "{new}");
        }
    }

    #[test]
    fn allowed_hosts_are_names_without_ports() {
        let line = "--id 1 --data-dir d --cluster 1=a:1 --allowed-host";
        let got = options(&format!("{line} proxy.example,other --allowed-host third")).unwrap();
        assert_eq!(got.allowed_hosts, ["proxy.example", "other", "third"]);
        for wrong in ["a:7101", "http://a", "*", "a/b", "[::1]"] {
            let said = options(&format!("{line} {wrong}")).expect_err(wrong);
            assert!(said.contains("not a host name"), "{wrong}: {said}");
        }
    }

    #[test]
    fn an_invalid_combination_of_options_is_refused_with_the_reason() {
        for (line, reason) in [
            ("--id 1 --data-dir d", "required"),
            ("--id 0 --data-dir d --cluster 1=a:1", "--id"),
            (
                "--id 4 --data-dir d --cluster 1=a:1",
                "does not contain this node",
            ),
            (
                "--id 1 --data-dir d --cluster 1=a:1,1=b:1",
                "names node 1 twice",
            ),
            (
                "--id 1 --data-dir d --cluster 1=a:1,2=a:1",
                "address a:1 twice",
            ),
            ("--id 1 --data-dir d --cluster 1=a", "HOST:PORT"),
            (
                "--id 1 --data-dir d --cluster 1=a:1 --join http://b:1",
                "cannot be used with",
            ),
            (
                "--id 4 --data-dir d --join http://b:1",
                "--join needs --listen",
            ),
            (
                "--id 1 --data-dir d --cluster 1=[fe80::1]:1",
                "needs an interface",
            ),
            (
                "--id 1 --data-dir d --cluster 1=a:1 --heartbeat-ms 200",
                "twice --heartbeat-ms",
            ),
            (
                "--id 1 --data-dir d --cluster 1=a:1 --election-ms 300..200",
                "MIN..MAX",
            ),
        ] {
            let said = options(line).expect_err(line);
            assert!(said.contains(reason), "{line}: {said}");
        }
    }
}
