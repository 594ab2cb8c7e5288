//! Another user for commands (`--run-as`).

use std::ffi::{CStr, CString};
use std::io;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User, getgrouplist};

/// User that commands run as.
#[derive(Debug, Clone)]
pub struct RunAs {
    /// Name of the user.
    pub name: String,
    /// Home directory of the user.
    pub home: PathBuf,
    /// Shell of the user.
    pub shell: PathBuf,
    uid: Uid,
    gid: Gid,
    groups: Vec<libc::gid_t>,
}

impl RunAs {
    /// Finds a user by name or number. The error is a sentence for the user of the command line.
    pub fn find(user: &str) -> Result<Self, String> {
        let found = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(user),
        };
        let found = found
            .map_err(|error| format!("cannot look up the user '{user}': {error}"))?
            .ok_or_else(|| format!("there is no user '{user}' on this machine"))?;
        if !Uid::effective().is_root() {
            return Err(format!(
                "only root can run tasks as another user: start the worker as root, or as '{user}' without --run-as"
            ));
        }
        let c_name = CString::new(found.name.as_str())
            .map_err(|_| format!("the name of the user '{user}' is invalid"))?;
        let groups = getgrouplist(&c_name, found.gid)
            .map_err(|error| format!("cannot look up the groups of the user '{user}': {error}"))?;
        Ok(Self {
            name: found.name,
            home: found.dir,
            shell: found.shell,
            uid: found.uid,
            gid: found.gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        })
    }

    /// Becomes the user, for good, and then enters the working directory, so that the user's own rights decide on it.
    ///
    /// Async-signal-safe, because it runs between fork and exec.
    pub fn apply(&self, cwd: Option<&CStr>) -> io::Result<()> {
        let check = |result: libc::c_int| match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        self.own_pipes();
        // SAFETY: plain system calls; the list of groups and the path outlive their calls.
        unsafe {
            check(libc::setgroups(self.groups.len(), self.groups.as_ptr()))?;
            check(libc::setgid(self.gid.as_raw()))?;
            check(libc::setuid(self.uid.as_raw()))?;
            cwd.map_or(Ok(()), |cwd| check(libc::chdir(cwd.as_ptr())))
        }
    }

    /// Gives the pipes of standard input and output to the user. Otherwise a command could not open `/dev/stdout`.
    fn own_pipes(&self) {
        for fd in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: system calls on integers and on a structure that is valid when zeroed and outlives them.
            unsafe {
                let mut status: libc::stat = std::mem::zeroed();
                if libc::fstat(fd, &raw mut status) == 0
                    && status.st_mode & libc::S_IFMT == libc::S_IFIFO
                {
                    libc::fchown(fd, self.uid.as_raw(), self.gid.as_raw());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_refused_by_name() {
        let why = RunAs::find("no-such-user-here").expect_err("unknown");
        assert!(why.contains("no-such-user-here"), "{why}");
        assert!(RunAs::find("4294967294").is_err());
    }
}
