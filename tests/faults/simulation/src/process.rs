//! One process of the program under the simulated kernel: its start, and its turns. See `kernel/link.c` for the frames.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// Simulated nanoseconds since the start of the run.
pub type Ns = u64;

/// Descriptors on which the kernel library expects its frames.
const INPUT_FD: i32 = 198;
const OUTPUT_FD: i32 = 199;
/// Environment variable that selects the deliberate bug of a build with `mutations`.
const MUTATION: &str = "TRIARCH_MUTATION";
/// Maximum real time of a turn before the process counts as hung.
const MAX_TURN_SECONDS: i32 = 30;

/// An action of a process in a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessOutput {
    Listen {
        port: u16,
    },
    Unlisten {
        port: u16,
    },
    Connect {
        connection: u64,
        host: u32,
        port: u16,
        own_port: u16,
    },
    Data {
        connection: u64,
        bytes: Vec<u8>,
    },
    Fin {
        connection: u64,
    },
    Close {
        connection: u64,
    },
    Exited {
        code: u64,
    },
}

/// An event for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessInput {
    Connected {
        connection: u64,
    },
    Failed {
        connection: u64,
        errno: u32,
    },
    Incoming {
        connection: u64,
        port: u16,
        peer: u32,
        peer_port: u16,
    },
    Data {
        connection: u64,
        bytes: Vec<u8>,
    },
    Ended {
        connection: u64,
    },
    Clock {
        offset_ns: i64,
    },
    Cut {
        seed: u64,
        loses_all: bool,
    },
    Space {
        free_bytes: u64,
    },
    SyncTime {
        min_ns: Ns,
        max_ns: Ns,
    },
    FailSyncs {
        count: u64,
    },
    EndAfter {
        steps: u64,
        loses_unsynced: bool,
    },
}

/// A turn that ended with all threads of the process waiting.
#[derive(Debug)]
pub struct Turn {
    /// Simulated time of the process.
    pub now: Ns,
    /// Time at which it wants to continue by itself.
    pub next: Ns,
    pub output: Vec<(Ns, ProcessOutput)>,
    /// Digest over the bytes of the frame.
    pub digest: u64,
}

/// End of a turn.
#[derive(Debug)]
pub enum Outcome {
    Waits(Turn),
    /// The process is gone, with its exit code (negative: the signal).
    Gone {
        code: i32,
    },
}

/// Arguments to start a process.
pub struct Start<'a> {
    pub program: &'a Path,
    pub kernel: &'a Path,
    pub args: &'a [String],
    /// Number of the machine, with the number of the start in the upper half.
    pub node: u64,
    pub seed: u64,
    pub preemption_per_mille: u64,
    pub disk: &'a Path,
    /// Whether its disk reports syncs that it did not do.
    pub lying_disk: bool,
    pub log: File,
}

pub struct Process {
    child: Child,
    input: File,
    output: File,
}

impl Process {
    /// Starts the process, which waits for its first turn.
    pub fn start(start: Start<'_>) -> anyhow::Result<Process> {
        let (their_input, input) = pipe()?;
        let (output, their_output) = pipe()?;
        let (read_end, write_end) = (their_input.as_raw_fd(), their_output.as_raw_fd());
        let mut command = Command::new(start.program);
        command
            .args(start.args)
            .env_clear()
            .env("LD_PRELOAD", start.kernel)
            .env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
            // The allocator returns memory depending on the clock, and each read of the clock advances the time.
            .env("MIMALLOC_PURGE_DELAY", "-1")
            .env("RUST_BACKTRACE", "1")
            .env("TRIARCH_SIM_SEED", start.seed.to_string())
            .env("TRIARCH_SIM_NODE", start.node.to_string())
            .env("TRIARCH_SIM_DISK", start.disk)
            .env(
                "TRIARCH_SIM_PREEMPTION",
                start.preemption_per_mille.to_string(),
            )
            .envs(start.lying_disk.then_some(("TRIARCH_SIM_LYING_DISK", "1")))
            .envs(std::env::var_os(MUTATION).map(|chosen| (MUTATION, chosen)))
            .stdin(Stdio::null())
            .stdout(start.log.try_clone()?)
            .stderr(start.log);
        // SAFETY: only calls that are safe after a fork. They fix the addresses of each run, and place the two
        // descriptors.
        unsafe {
            command.pre_exec(move || {
                if libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) < 0
                    || libc::dup2(read_end, INPUT_FD) < 0
                    || libc::dup2(write_end, OUTPUT_FD) < 0
                    || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0
                {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", start.program.display()))?;
        let mut process = Process {
            child,
            input,
            output,
        };
        drop((their_input, their_output));
        process
            .read_frame()?
            .context("the process ended before its first turn: is the kernel library there?")?;
        Ok(process)
    }

    /// Gives the process a turn.
    pub fn turn(
        &mut self,
        now: Ns,
        horizon: Ns,
        inputs: &[ProcessInput],
    ) -> anyhow::Result<Outcome> {
        let mut frame = Vec::with_capacity(64);
        frame.extend(0_u32.to_le_bytes());
        frame.extend(now.to_le_bytes());
        frame.extend(horizon.to_le_bytes());
        for event in inputs {
            encode(event, &mut frame);
        }
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        if self.input.write_all(&frame).is_err() {
            return Ok(Outcome::Gone { code: self.wait()? });
        }
        match self.read_frame()? {
            Some(bytes) => Ok(Outcome::Waits(decode(&bytes)?)),
            None => Ok(Outcome::Gone { code: self.wait()? }),
        }
    }

    /// `None`: the process is gone.
    fn read_frame(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut poll = libc::pollfd {
            fd: self.output.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one open descriptor, and its count.
        let ready = unsafe { libc::poll(&raw mut poll, 1, MAX_TURN_SECONDS * 1000) };
        anyhow::ensure!(
            ready > 0,
            "the process did not end its turn within {MAX_TURN_SECONDS} s: it spins, or waits for what is not simulated"
        );
        let mut length = [0; 4];
        match self.output.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let mut frame = vec![0; u32::from_le_bytes(length) as usize];
        match self.output.read_exact(&mut frame) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(Some(frame)),
        }
    }

    /// Ends the process like `kill -9`.
    pub fn kill(&mut self) -> anyhow::Result<i32> {
        self.child.kill()?;
        self.wait()
    }

    fn wait(&mut self) -> anyhow::Result<i32> {
        let status = self.child.wait()?;
        Ok(status
            .code()
            .unwrap_or_else(|| -status.signal().unwrap_or(0)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pipe() -> anyhow::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: space for two descriptors, which nothing else owns afterwards.
    unsafe {
        anyhow::ensure!(
            libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) == 0,
            "no pipe: {}",
            std::io::Error::last_os_error()
        );
        Ok((File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])))
    }
}

fn encode(input: &ProcessInput, frame: &mut Vec<u8>) {
    let (kind, subject, data): (u8, u64, Vec<u8>) = match input {
        ProcessInput::Connected { connection } => (1, *connection, vec![]),
        ProcessInput::Failed { connection, errno } => {
            (2, *connection, errno.to_le_bytes().to_vec())
        }
        ProcessInput::Incoming {
            connection,
            port,
            peer,
            peer_port,
        } => {
            let mut data = port.to_le_bytes().to_vec();
            data.extend(peer.to_le_bytes());
            data.extend(peer_port.to_le_bytes());
            (3, *connection, data)
        }
        ProcessInput::Data { connection, bytes } => (4, *connection, bytes.clone()),
        ProcessInput::Ended { connection } => (5, *connection, vec![]),
        ProcessInput::Clock { offset_ns } => (6, offset_ns.cast_unsigned(), vec![]),
        ProcessInput::Cut { seed, loses_all } => (7, *seed, vec![0; usize::from(*loses_all)]),
        ProcessInput::Space { free_bytes } => (8, *free_bytes, vec![]),
        ProcessInput::SyncTime { min_ns, max_ns } => (9, *min_ns, max_ns.to_le_bytes().to_vec()),
        ProcessInput::FailSyncs { count } => (10, *count, vec![]),
        ProcessInput::EndAfter {
            steps,
            loses_unsynced,
        } => (11, *steps, vec![0; usize::from(*loses_unsynced)]),
    };
    frame.push(kind);
    frame.extend(subject.to_le_bytes());
    frame.extend((data.len() as u32).to_le_bytes());
    frame.extend(data);
}

fn decode(frame: &[u8]) -> anyhow::Result<Turn> {
    let number = |at: usize| -> anyhow::Result<u64> {
        let bytes = frame.get(at..at + 8).context("a frame is cut short")?;
        Ok(u64::from_le_bytes(bytes.try_into()?))
    };
    let mut turn = Turn {
        now: number(0)?,
        next: number(8)?,
        output: Vec::new(),
        digest: digest(frame),
    };
    let mut at = 16;
    while at < frame.len() {
        let (kind, time, subject) = (frame[at], number(at + 1)?, number(at + 9)?);
        let length = u32::from_le_bytes(frame[at + 17..at + 21].try_into()?) as usize;
        let data = frame
            .get(at + 21..at + 21 + length)
            .context("a frame is cut short")?;
        at += 21 + length;
        let output = match kind {
            1 => ProcessOutput::Listen {
                port: subject as u16,
            },
            2 => ProcessOutput::Unlisten {
                port: subject as u16,
            },
            3 => ProcessOutput::Connect {
                connection: subject,
                host: u32::from_le_bytes(data[..4].try_into()?),
                port: u16::from_le_bytes(data[4..6].try_into()?),
                own_port: u16::from_le_bytes(data[6..8].try_into()?),
            },
            4 => ProcessOutput::Data {
                connection: subject,
                bytes: data.to_vec(),
            },
            5 => ProcessOutput::Fin {
                connection: subject,
            },
            6 => ProcessOutput::Close {
                connection: subject,
            },
            7 => ProcessOutput::Exited { code: subject },
            other => anyhow::bail!("the kernel library says {other}, which is not known here"),
        };
        turn.output.push((time, output));
    }
    Ok(turn)
}

/// FNV-1a, eight bytes at a time.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut digest = 0xCBF2_9CE4_8422_2325_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        digest = (digest ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01B3);
        digest ^= digest >> 29;
    }
    digest
}
