//! A disk whose power can be cut: an ext4 file system in a file, mounted by a loop device.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Size of the image. It is enough for the log of a drill, and the file is sparse.
const IMAGE_BYTES: u64 = 512 << 20;
/// Size of the steps in which the disk is filled, before single blocks.
const FILL_BYTES: [u64; 3] = [16 << 20, 1 << 20, 4 << 10];
/// Contents of the canary file that a power cut must remove.
const CANARY_FILE: &str = "written, not synced";

/// ioctl that shuts the file system down like a power cut: everything that is only in memory is lost, the journal
/// included.
const GOING_DOWN_WITHOUT_FLUSH: u32 = 2;

/// `_IOR('X', 125, __u32)`, the same for every file system that supports it.
const FS_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;

/// Maximum time for which other processes may hold the file system after the unmount here.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(60);
const UNMOUNT_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A mounted disk image. Dropping this unmounts it.
#[derive(Debug)]
pub struct DiskImage {
    file: PathBuf,
    mount_point: PathBuf,
    mounted: bool,
    canaries: u32,
}

/// Returns the reason why this machine does not support disk images, if it does not.
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it mounts file systems, which takes root; run it with sudo".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("it needs loop devices, and /dev/loop-control is not there".to_owned());
    }
    let missing = ["mkfs.ext4", "mount", "umount"]
        .into_iter()
        .find(|tool| run(tool, &["-V"]).is_err());
    missing.map(|tool| format!("it needs {tool} (Debian: apt-get install e2fsprogs mount)"))
}

impl DiskImage {
    /// Creates and mounts an empty ext4 file system below `dir`.
    pub fn make(dir: &Path, name: &str) -> anyhow::Result<Self> {
        let (file, mount_point) = (dir.join(format!("{name}.img")), dir.join(name));
        File::create(&file)?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir(&mount_point)?;
        run("mkfs.ext4", &["-q", "-F", text(&file)?])?;
        let mut image = Self {
            file,
            mount_point,
            mounted: false,
            canaries: 0,
        };
        image.mount()?;
        Ok(image)
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Mounts the file system. The mount replays the journal, as after any power cut.
    pub fn mount(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + UNMOUNT_TIMEOUT;
        loop {
            run(
                "mount",
                &["-o", "loop", text(&self.file)?, text(&self.mount_point)?],
            )?;
            self.mounted = true;
            // A process that has created a mount namespace in the meantime still holds the file system that was shut
            // down. The mount then shows that same file system.
            let probe = self.mount_point.join("probe");
            match File::create(&probe).and_then(|_| std::fs::remove_file(&probe)) {
                Ok(()) => return Ok(()),
                Err(_) if Instant::now() < deadline => {}
                Err(error) => {
                    return Err(error).context("the file system cannot be used after the cut");
                }
            }
            self.unmount()?;
            std::thread::sleep(UNMOUNT_POLL_INTERVAL);
        }
    }

    /// Cuts the power under all processes that use the disk.
    pub fn cut(&self) -> anyhow::Result<()> {
        let root = File::open(&self.mount_point)?;
        let how = GOING_DOWN_WITHOUT_FLUSH;
        // SAFETY: the descriptor is open, and the call reads one `u32` through the pointer.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const how) };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| {
                format!(
                    "cannot shut down the file system at {}",
                    self.mount_point.display()
                )
            });
        }
        Ok(())
    }

    /// Returns a directory on the disk for a master.
    pub fn data_dir(&self) -> PathBuf {
        self.mount_point.join("data")
    }

    /// Writes a file that is not synced. After a power cut it must be gone. Otherwise the cut had no effect. Each cut
    /// has a canary of its own, because ext4 writes out a file that replaces another of its name as soon as it is
    /// closed.
    pub fn write_canary(&mut self) -> anyhow::Result<()> {
        self.canaries += 1;
        let mut file = File::create_new(self.canary()).context("cannot write a canary")?;
        file.write_all(CANARY_FILE.as_bytes())?;
        Ok(())
    }

    /// Returns whether the latest canary is gone, or empty.
    pub fn canary_is_gone(&self) -> bool {
        std::fs::read_to_string(self.canary())
            .unwrap_or_default()
            .is_empty()
    }

    fn canary(&self) -> PathBuf {
        self.mount_point.join(format!("canary-{}", self.canaries))
    }

    /// Fills all free space of the disk.
    pub fn fill(&self) -> anyhow::Result<()> {
        let file = File::create(self.ballast()).context("cannot write what fills the disk")?;
        let mut filled = 0;
        for bytes in FILL_BYTES {
            loop {
                // SAFETY: the descriptor is open.
                let done =
                    unsafe { libc::fallocate(file.as_raw_fd(), 0, filled as i64, bytes as i64) };
                if done != 0 {
                    let error = std::io::Error::last_os_error();
                    if error.kind() == ErrorKind::StorageFull {
                        break;
                    }
                    return Err(error).context("cannot fill the disk");
                }
                filled += bytes;
            }
        }
        Ok(())
    }

    /// Returns whether not one more block can be written: the error is `ENOSPC`.
    pub fn refuses_more(&self) -> anyhow::Result<bool> {
        let mut file = OpenOptions::new().append(true).open(self.ballast())?;
        match file
            .write_all(&[1; 8 << 10])
            .and_then(|()| file.sync_data())
        {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(true),
            Err(error) => Err(error).context("a full disk fails otherwise"),
        }
    }

    /// Frees the space that was filled.
    pub fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.ballast()).context("cannot free the disk")
    }

    fn ballast(&self) -> PathBuf {
        self.mount_point.join("ballast")
    }

    /// Unmounts the file system.
    pub fn unmount(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            run("umount", &[text(&self.mount_point)?])?;
            self.mounted = false;
        }
        Ok(())
    }
}

impl Drop for DiskImage {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("{error:#}");
            // Detached from the directory tree now, and released when its last user ends.
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(&self.mount_point)
                .status();
        }
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        // These commands ignore Ctrl-C, because this process needs them to clean up after Ctrl-C.
        .process_group(0)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
