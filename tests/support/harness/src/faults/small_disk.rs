//! A disk of a few megabytes that can be filled to the last byte, and emptied again: a file system in memory.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the ballast is written in; the last is the size of a page.
const BLOCKS_BYTES: [usize; 2] = [1 << 20, 4 << 10];

/// See the module. Dropping it unmounts it; whoever uses it must be gone by then.
#[derive(Debug)]
pub struct SmallDisk {
    mount_point: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts an empty one. The error says why this machine does not allow it: it takes root.
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

    /// So many of them.
    pub fn mount_all(count: u64, mib: u64) -> Result<Vec<Self>, String> {
        (0..count).map(|_| Self::mount(mib)).collect()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// A directory in it for a master.
    pub fn data_dir(&self) -> PathBuf {
        self.mount_point.join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.mount_point.join("ballast")
    }

    /// Writes to it until nothing more fits. What is there already stays.
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

    /// Takes away what filled it.
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
        // Still in use: gone from the tree now, and for good with its last user.
        if !unmount(&[]) && !unmount(&["--lazy"]) {
            eprintln!("{} could not be unmounted", self.mount_point.display());
        }
    }
}
