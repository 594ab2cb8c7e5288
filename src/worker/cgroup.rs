//! Limits on the memory and the processes of each task, by a control group of its own.
//!
//! Both versions of control groups are supported. With version 2 the worker needs a group that was delegated to it, with
//! no other processes in it. With version 1 it needs a group that it may write to, for each controller.
//!
//! # Invariants
//!
//! - A command joins its groups before its program begins, so that nothing of it is outside.
//! - A group is removed with its attempt. One that cannot be removed yet, because its last process is still dying, is
//!   removed later.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Maximum passes over the processes of a group that the kernel cannot kill as a whole.
const KILL_ROUNDS_MAX: usize = 16;
/// Beginning of the names of groups that workers make.
const NAME_PREFIX: &str = "triarch-task-";
/// Name of the group that a worker moves itself to, because groups with subgroups must not have processes (version 2).
const WORKER_GROUP: &str = "triarch-worker";

/// Limits on each task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskLimits {
    /// Maximum memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Maximum number of processes and threads.
    pub pids: Option<u64>,
}

/// Version of a hierarchy of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A directory in which a group is made for each task, and the limits that are set there.
#[derive(Debug)]
struct Parent {
    dir: PathBuf,
    version: Version,
    limits: TaskLimits,
}

/// Maker of groups for tasks.
#[derive(Debug)]
pub struct TaskGroups {
    parents: Vec<Parent>,
    next: AtomicU64,
    leftover: Mutex<Vec<PathBuf>>,
}

/// Control groups of one task: one directory, or one for each controller with version 1.
#[derive(Debug)]
pub struct TaskGroup {
    groups: Arc<TaskGroups>,
    dirs: Vec<PathBuf>,
    /// Files that the command writes to, to join.
    join: Vec<CString>,
}

impl TaskGroups {
    /// Finds the groups to use. Tries them out, so that a worker that cannot limit its tasks does not start.
    ///
    /// # Errors
    ///
    /// A sentence for the user: what is missing, and what to do.
    pub fn open(limits: TaskLimits) -> Result<Arc<Self>, String> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
        };
        let own = read("/proc/self/cgroup")?;
        let mounts = read("/proc/self/mountinfo")?;
        let parents = match two(&own, &mounts, limits) {
            Some(Ok(parent)) => vec![parent],
            Some(Err(why)) => return Err(refusal(&why)),
            None => one(&own, &mounts, limits).map_err(|why| refusal(&why))?,
        };
        for parent in &parents {
            remove_stale(&parent.dir);
        }
        let groups = Arc::new(Self {
            parents,
            next: AtomicU64::new(0),
            leftover: Mutex::default(),
        });
        drop(
            groups
                .create()
                .map_err(|error| refusal(&error.to_string()))?,
        );
        Ok(groups)
    }

    /// Makes the group of one task.
    pub fn create(self: &Arc<Self>) -> io::Result<TaskGroup> {
        self.remove_leftover();
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{}-{nth}", std::process::id());
        let mut group = TaskGroup {
            groups: self.clone(),
            dirs: Vec::new(),
            join: Vec::new(),
        };
        for parent in &self.parents {
            let dir = parent.dir.join(&name);
            named(fs::create_dir(&dir), &dir)?;
            group.dirs.push(dir.clone());
            parent.limit(&dir)?;
            let procs = dir.join("cgroup.procs");
            let procs = CString::new(procs.as_os_str().as_bytes()).map_err(io::Error::other)?;
            group.join.push(procs);
        }
        Ok(group)
    }

    fn remove_leftover(&self) {
        let mut leftover = self.leftover.lock().unwrap_or_else(PoisonError::into_inner);
        leftover.retain(|dir| fs::remove_dir(dir).is_err() && dir.exists());
    }
}

impl Parent {
    fn limit(&self, dir: &Path) -> io::Result<()> {
        let write = |file: &str, value: String| {
            let path = dir.join(file);
            named(fs::write(&path, value), &path)
        };
        if let Some(bytes) = self.limits.memory_bytes {
            match self.version {
                Version::One => {
                    write("memory.limit_in_bytes", bytes.to_string())?;
                    // Absent without accounting of swap.
                    let _ = write("memory.memsw.limit_in_bytes", bytes.to_string());
                }
                Version::Two => {
                    write("memory.max", bytes.to_string())?;
                    let _ = write("memory.swap.max", "0".to_owned());
                }
            }
        }
        if let Some(pids) = self.limits.pids {
            write("pids.max", pids.to_string())?;
        }
        Ok(())
    }
}

impl TaskGroup {
    /// Returns the files by which a process joins. See [`join`].
    pub fn join_files(&self) -> Vec<CString> {
        self.join.clone()
    }

    /// Returns the number of processes of the task that were killed for want of memory.
    pub fn memory_kills(&self) -> u64 {
        let read = |dir: &PathBuf| {
            let files = ["memory.events", "memory.oom_control"];
            let text = files
                .iter()
                .find_map(|file| fs::read_to_string(dir.join(file)).ok())?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse::<u64>().ok()
        };
        self.dirs.iter().filter_map(read).sum()
    }

    /// Kills all processes of the task, also those that left its process group.
    pub fn kill_all(&self) {
        // The group that limits the number of processes, if there is one, is the last.
        for dir in self.dirs.iter().rev() {
            if fs::write(dir.join("cgroup.kill"), "1").is_err() {
                kill_each(dir);
            }
        }
    }
}

/// Kills the processes of a group one by one, where the kernel cannot kill the group as a whole.
fn kill_each(dir: &Path) {
    // With this limit a process that forks all the time cannot outrun the kills.
    let _ = fs::write(dir.join("pids.max"), "0");
    for _ in 0..KILL_ROUNDS_MAX {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        if procs.is_empty() {
            return;
        }
        for pid in procs.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

impl Drop for TaskGroups {
    fn drop(&mut self) {
        self.remove_leftover();
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.kill_all();
        let removable = |dir: &PathBuf| fs::remove_dir(dir).is_err() && dir.exists();
        let left: Vec<PathBuf> = self.dirs.drain(..).filter(removable).collect();
        if !left.is_empty() {
            let mut leftover = self
                .groups
                .leftover
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            leftover.extend(left);
        }
    }
}

/// Moves the calling process into the groups of these files.
///
/// Async-signal-safe, because it runs between fork and exec.
pub fn join(files: &[CString]) -> io::Result<()> {
    for file in files {
        // SAFETY: system calls on a text and a byte that outlive them.
        unsafe {
            let fd = libc::open(file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let written = libc::write(fd, c"0".as_ptr().cast(), 1);
            let error = io::Error::last_os_error();
            libc::close(fd);
            if written != 1 {
                return Err(error);
            }
        }
    }
    Ok(())
}

fn refusal(why: &str) -> String {
    format!(
        "--memory-max and --pids-max need a control group that this worker may write to: {why}. Start the worker with \
         Delegate=yes under systemd (systemd-run -p Delegate=yes --scope triarch worker …), or in a container with a \
         writable /sys/fs/cgroup; or leave these options out, and tasks have no limits"
    )
}

fn named<T>(result: io::Result<T>, path: &Path) -> io::Result<T> {
    result.map_err(|error| {
        let kind = error.raw_os_error();
        match kind {
            // The code says whether it is a want that may pass.
            Some(code) if super::file_limit::is_want(&error) => io::Error::from_raw_os_error(code),
            _ => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        }
    })
}

fn controllers(limits: TaskLimits) -> Vec<&'static str> {
    let memory = limits.memory_bytes.map(|_| "memory");
    let pids = limits.pids.map(|_| "pids");
    memory.into_iter().chain(pids).collect()
}

/// A mounted hierarchy.
struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    options: &'a str,
}

/// Returns the mounted hierarchies of a kind (`cgroup` or `cgroup2`).
fn mounts_of<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = Mount<'a>> {
    mounts.lines().filter_map(move |line| {
        let (place, fs) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, at) = (place.next()?, place.next()?);
        let mut fs = fs.split(' ');
        let (found, options) = (fs.next()?, fs.nth(1)?);
        (found == kind).then_some(Mount { root, at, options })
    })
}

impl Mount<'_> {
    /// Returns the directory of a group. A group outside of what is mounted is looked for at the mount itself.
    fn dir(&self, group: &str) -> PathBuf {
        let within = group.strip_prefix(self.root.trim_end_matches('/'));
        let dir = Path::new(self.at).join(within.unwrap_or("").trim_start_matches('/'));
        match dir.join("cgroup.procs").exists() {
            true => dir,
            false => PathBuf::from(self.at),
        }
    }
}

/// Finds the worker's group of version 2, and enables the controllers for its subgroups. `None` if that version does not
/// have the controllers here.
fn two(own: &str, mounts: &str, limits: TaskLimits) -> Option<Result<Parent, String>> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts_of(mounts, "cgroup2").next()?;
    let dir = mount.dir(group);
    let available = fs::read_to_string(dir.join("cgroup.controllers")).ok()?;
    let has = |name: &&str| available.split_whitespace().any(|other| other == *name);
    let wanted = controllers(limits);
    if !wanted.iter().all(has) {
        let elsewhere = mounts_of(mounts, "cgroup").next().is_some();
        let missing = wanted.iter().find(|name| !has(name))?;
        let why = format!(
            "the controller {missing} is not available in {}",
            dir.display()
        );
        return (!elsewhere).then_some(Err(why));
    }
    let enabled = enable(&dir, &wanted).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => format!("other processes are in the group {}", dir.display()),
        _ => format!("{}: {error}", dir.display()),
    });
    Some(enabled.map(|()| Parent {
        dir,
        version: Version::Two,
        limits,
    }))
}

fn enable(dir: &Path, controllers: &[&str]) -> io::Result<()> {
    let control = dir.join("cgroup.subtree_control");
    let words: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
    let words = words.join(" ");
    match fs::write(&control, &words) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let own = dir.join(WORKER_GROUP);
            if let Err(error) = fs::create_dir(&own)
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            fs::write(own.join("cgroup.procs"), "0")?;
            fs::write(&control, &words)
        }
        other => other,
    }
}

/// Finds the worker's groups of version 1, one for each controller.
fn one(own: &str, mounts: &str, limits: TaskLimits) -> Result<Vec<Parent>, String> {
    let parent = |controller: &'static str| {
        let names = |list: &str| list.split(',').any(|name| name == controller);
        let group = own.lines().find_map(|line| {
            let (list, path) = line.split_once(':')?.1.split_once(':')?;
            names(list).then_some(path)
        });
        let mount = mounts_of(mounts, "cgroup").find(|mount| names(mount.options));
        let (Some(group), Some(mount)) = (group, mount) else {
            return Err(format!("the controller {controller} is not available"));
        };
        Ok(Parent {
            dir: mount.dir(group),
            version: Version::One,
            limits: TaskLimits {
                memory_bytes: limits.memory_bytes.filter(|_| controller == "memory"),
                pids: limits.pids.filter(|_| controller == "pids"),
            },
        })
    };
    controllers(limits).into_iter().map(parent).collect()
}

/// Removes groups of workers that were killed.
fn remove_stale(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME_PREFIX)?.split('-').next());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TaskLimits = TaskLimits {
        memory_bytes: Some(64 << 20),
        pids: Some(20),
    };

    #[test]
    fn groups_of_version_one_are_found_for_each_controller() {
        let own = "9:name=systemd:/\n8:pids:/\n4:cpu,memory:/outer/inner\n0::/\n";
        let mounts = "35 31 0:32 / /nowhere/memory rw - cgroup cgroup rw,cpu,memory\n\
                      39 31 0:36 / /nowhere/pids rw,relatime shared:1 - cgroup cgroup rw,pids\n";
        let parents = one(own, mounts, LIMITS).expect("both");
        let dirs: Vec<&Path> = parents.iter().map(|parent| parent.dir.as_path()).collect();
        assert_eq!(
            dirs,
            [Path::new("/nowhere/memory"), Path::new("/nowhere/pids")]
        );
        assert_eq!(
            (parents[0].limits.pids, parents[1].limits.memory_bytes),
            (None, None)
        );
        let missing = one("8:pids:/\n", mounts, LIMITS).expect_err("no memory");
        assert!(missing.contains("memory"), "{missing}");
        assert!(two(own, mounts, LIMITS).is_none());
    }

    #[test]
    fn a_group_is_looked_for_below_what_is_mounted() {
        let place = tempfile::tempdir().expect("a directory");
        let at = place.path().to_str().expect("plain").to_owned();
        let inner = place.path().join("b");
        fs::create_dir(&inner).expect("made");
        fs::write(inner.join("cgroup.procs"), "").expect("written");
        let mount = |root| Mount {
            root,
            at: &at,
            options: "",
        };
        assert_eq!(mount("/").dir("/b"), inner);
        assert_eq!(mount("/a").dir("/a/b"), inner);
        assert_eq!(mount("/").dir("/other"), place.path());
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let why = refusal("it is read-only");
        assert!(
            why.contains("it is read-only") && why.contains("Delegate=yes"),
            "{why}"
        );
    }
}
