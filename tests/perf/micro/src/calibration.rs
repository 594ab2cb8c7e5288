//! Calibration: work that is independent of the product and never changes, to which everything else is compared.
//!
//! A change here invalidates every baseline: write new ones (`scripts/micro.sh --update`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// Does work like a table, in small: creates values, files them by key, finds them again, and drops them. Returns a
/// value that depends on all of it.
pub fn memory() -> u64 {
    const KEYS: u64 = 1_000;
    let scattered = |key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut tree = BTreeMap::new();
    for key in 0..KEYS {
        tree.insert(scattered(key), vec![key as u8; 256]);
    }
    (0..KEYS).fold(0, |sum: u64, key| {
        let value = &tree[&scattered(key)];
        sum.wrapping_add(u64::from(value[key as usize % 256]) ^ key)
    })
}

/// Does work like a log, in small: passes a page to another thread, which writes it, syncs it and confirms it.
pub struct Disk {
    ask: Option<Sender<[u8; 4_096]>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Starts a thread that writes to a file of its own in `folder`.
    pub fn new(folder: &Path) -> std::io::Result<Self> {
        // Pages are overwritten in turn, so that no sync extends the file.
        const PAGES: u64 = 256;
        let mut file = File::create(folder.join("calibration"))?;
        file.write_all(&vec![1; 4_096 * PAGES as usize])?;
        file.sync_all()?;
        let (ask, asked) = channel::<[u8; 4_096]>();
        let (sender, done) = channel();
        let thread = thread::spawn(move || {
            for (turn, page) in asked.into_iter().enumerate() {
                let place = SeekFrom::Start(turn as u64 % PAGES * 4_096);
                file.seek(place).expect("a place within the file");
                file.write_all(&page).expect("the disk takes it");
                file.sync_data().expect("the disk takes it");
                if sender.send(()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            ask: Some(ask),
            done,
            thread: Some(thread),
        })
    }

    /// Writes one page and waits for the confirmation.
    pub fn sync(&self) {
        let ask = self.ask.as_ref().expect("until it is dropped");
        ask.send([7; 4_096]).expect("the thread lives");
        self.done.recv().expect("the thread lives");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // An error needs no report, because the missing confirmation shows it.
            let _ = thread.join();
        }
    }
}
