//! A disk of a few megabytes, in memory, that can be filled to the last byte and freed again.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sizes of the writes that fill the disk. The last one is the size of a page.
const BLOCKS_BYTES: [usize; 2] = [1 << 20, 4 << 10];

/// A small disk. Dropping this unmounts it, so its users must have exited before.
#[derive(Debug)]
pub struct SmallDisk {
    mount_point: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts an empty disk. The error is the reason why this machine does not support it; it requires root.
    pub fn mount(mib: u64) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("triarch-disk-")
            .tempdir()
            .map_err(|error| format!("no directory can be made: {error}"))?;
        let mount_point = dir.path().join("disk");
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&mount_point)
            .output()
            .map_err(|error| format!("mount cannot be run: {error}"))?;
        if !mounted.status.success() {
            let said = String::from_utf8_lossy(&mounted.stderr);
            return Err(format!("a small disk takes root to mount: {}", said.trim()));
        }
        Ok(Self {
            mount_point,
            _dir: dir,
        })
    }

    /// Mounts this many disks.
    pub fn mount_all(count: u64, mib: u64) -> Result<Vec<Self>, String> {
        (0..count).map(|_| Self::mount(mib)).collect()
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Returns a directory on the disk for a master.
    pub fn data_dir(&self) -> PathBuf {
        self.mount_point.join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.mount_point.join("ballast")
    }

    /// Writes until nothing more fits. Existing files stay.
    pub fn fill(&self) {
        let path = self.ballast();
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let mut file: File =
            opened.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        for bytes in BLOCKS_BYTES {
            let block = vec![1; bytes];
            loop {
                match file.write(&block) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("cannot write {}: {error}", path.display()),
                }
            }
        }
    }

    /// Deletes the file that filled the disk.
    pub fn free(&self) {
        let path = self.ballast();
        std::fs::remove_file(&path)
            .unwrap_or_else(|error| panic!("cannot remove {}: {error}", path.display()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = |how: &[&str]| {
            let done = Command::new("umount")
                .args(how)
                .arg(&self.mount_point)
                .output();
            done.is_ok_and(|output| output.status.success())
        };
        // The disk is in use: it is detached from the directory tree now, and released when its last user ends.
        if !unmount(&[]) && !unmount(&["--lazy"]) {
            eprintln!("{} could not be unmounted", self.mount_point.display());
        }
    }
}
