//! Hostile clients: they attack the port of a master as strangers, broken programs and port scanners would, in all ways
//! at once.
//!
//! They run on threads of their own, which use as much of the processors as they get. [`Burners`] use the processors in
//! the same way without touching the cluster. So the cluster itself causes the part of a delay that burners do not
//! cause.

mod attacks;
mod connection;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

pub use attacks::Attack;

/// Addresses that hostile clients connect to, and the identity that they pretend to have.
#[derive(Debug, Clone)]
pub struct Targets {
    /// Address of each master, by its id.
    pub masters: Vec<(u64, String)>,
    /// Id of the cluster, as 16 bytes.
    pub cluster: [u8; 16],
    /// A task and a job that do not end during the attack.
    pub unfinished: (String, String),
}

/// Results of the attacks of one kind.
#[derive(Debug, Default)]
pub struct Effects {
    /// Connections that were opened.
    pub opened: AtomicU64,
    /// Connections that the master closed, or answered with a refusal, before the client gave up.
    pub refused: AtomicU64,
    /// Requests that were answered with success.
    pub served: AtomicU64,
}

/// Running hostile clients. Dropping them ends them.
pub struct HostileClients {
    /// Dropped to end the threads.
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    attacks: Vec<Attack>,
    effects: Arc<Vec<Effects>>,
}

impl HostileClients {
    /// Starts them on this number of threads. Every kind is on every thread.
    pub fn start(attacks: &[Attack], targets: &Targets, threads: u16, seed: u64) -> Self {
        let (stop, stopped) = watch::channel(());
        let effects: Arc<Vec<Effects>> =
            Arc::new(attacks.iter().map(|_| Effects::default()).collect());
        let threads = (0..threads).map(|nth| {
            let (targets, mut stopped, effects) =
                (targets.clone(), stopped.clone(), Arc::clone(&effects));
            let attacks = attacks.to_vec();
            let share = usize::from(threads);
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(u64::from(nth)));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let mut clients = tokio::task::JoinSet::new();
                    for (number, attack) in attacks.iter().copied().enumerate() {
                        for _ in 0..attack.clients().div_ceil(share) {
                            let (targets, effects) = (targets.clone(), Arc::clone(&effects));
                            let mut random = StdRng::seed_from_u64(random.random());
                            clients.spawn(async move {
                                loop {
                                    attack.run(&targets, &effects[number], &mut random).await;
                                }
                            });
                        }
                    }
                    // The clients never end by themselves. The channel closes when they are to end.
                    let _ = stopped.changed().await;
                    clients.shutdown().await;
                });
            })
        });
        let threads = threads.collect();
        Self {
            stop: Some(stop),
            threads,
            attacks: attacks.to_vec(),
            effects,
        }
    }

    /// Ends them, and returns the results of each kind.
    pub fn finish(mut self) -> Vec<(Attack, [u64; 3])> {
        self.end();
        let effects = self.effects.iter().map(|effects| {
            [&effects.opened, &effects.refused, &effects.served]
                .map(|count| count.load(Ordering::Relaxed))
        });
        self.attacks.iter().copied().zip(effects).collect()
    }

    fn end(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has been reported on stderr.
            let _ = thread.join();
        }
    }
}

impl Drop for HostileClients {
    fn drop(&mut self) {
        self.end();
    }
}

/// Threads that keep processors busy. Dropping them ends them.
pub struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    /// Starts this number of threads.
    pub fn start(threads: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..threads).map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
