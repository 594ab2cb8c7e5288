//! Environment of commands: what they get of the worker's own, and what stays with the worker.
//!
//! A worker's environment holds credentials: of the cluster, of registries, of the machine. A command gets a list of
//! well-known variables, those that `--pass-env` names, and those that its task sets.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Variables that every command gets.
const ALWAYS_PASSED: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
];
/// Beginning of the names of locale variables, which every command gets.
const LOCALE_PREFIX: &str = "LC_";
/// Beginning of the names of the cluster's credentials, which no command gets.
const CREDENTIAL_PREFIX: &str = "TRIARCH_AUTH_";
/// Name that stands for all variables.
const ALL: &str = "*";

/// Selection of the worker's variables that commands get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassedEnvironment {
    names: BTreeSet<String>,
    all: bool,
}

impl PassedEnvironment {
    /// Creates the selection of these names in addition to the usual ones. `*` stands for all.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut passed = Self::default();
        for name in names {
            match name.as_str() {
                ALL => passed.all = true,
                _ => {
                    passed.names.insert(name);
                }
            }
        }
        passed
    }

    /// Parses one name for `--pass-env`.
    pub fn parse_name(text: &str) -> Result<String, String> {
        if text.starts_with(CREDENTIAL_PREFIX) {
            return Err(format!(
                "{CREDENTIAL_PREFIX}… are credentials of the cluster, which no task gets"
            ));
        }
        if text.is_empty() || text.contains(['=', '\0']) {
            return Err("a name of a variable is not empty and has no =".to_owned());
        }
        if text != ALL && text.contains('*') {
            return Err("only * by itself is a pattern: it passes all variables".to_owned());
        }
        Ok(text.to_owned())
    }

    fn passes(&self, name: &OsStr) -> bool {
        let Some(name) = name.to_str() else {
            return self.all;
        };
        !name.starts_with(CREDENTIAL_PREFIX)
            && (self.all
                || ALWAYS_PASSED.contains(&name)
                || name.starts_with(LOCALE_PREFIX)
                || self.names.contains(name))
    }

    /// Returns the variables of this process that commands do not get.
    pub fn withheld(&self) -> Vec<OsString> {
        let names = std::env::vars_os().map(|(name, _)| name);
        names.filter(|name| !self.passes(name)).collect()
    }
}

/// Overwrites the values of these variables where the kernel shows them (`/proc/PID/environ`). This process keeps them.
///
/// To be called before there are other threads.
pub fn hide_from_process_list(names: &[OsString]) {
    for name in names {
        let Ok(c_name) = std::ffi::CString::new(name.as_bytes()) else {
            continue;
        };
        let Some(value) = std::env::var_os(name) else {
            continue;
        };
        // SAFETY: there are no other threads, so the environment does not change between these calls. `getenv` returns
        // a text of the environment that the process was started with, or a copy on the heap; both are writable.
        unsafe {
            let shown = libc::getenv(c_name.as_ptr());
            if shown.is_null() {
                continue;
            }
            let bytes = CStr::from_ptr(shown).to_bytes().len();
            // The environment refers to a copy from here on, and nobody to the original.
            std::env::set_var(name, &value);
            if libc::getenv(c_name.as_ptr()) != shown {
                std::ptr::write_bytes(shown, 0, bytes);
            }
        }
    }
}

/// Makes this process unreadable for others of the same user: they can neither trace it nor read its memory.
pub fn forbid_tracing() -> std::io::Result<()> {
    nix::sys::prctl::set_dumpable(false).map_err(std::io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(names: &[&str], name: &str) -> bool {
        let names = names.iter().map(|name| (*name).to_owned());
        PassedEnvironment::new(names).passes(OsStr::new(name))
    }

    #[test]
    fn commands_get_the_usual_variables_and_those_that_are_named() {
        for usual in ["PATH", "HOME", "LANG", "LC_ALL", "LC_TIME", "VIRTUAL_ENV"] {
            assert!(passed(&[], usual), "{usual}");
        }
        for other in [
            "AWS_SECRET_ACCESS_KEY",
            "PATHS",
            "path",
            "TRIARCH_MASTERS",
            "",
        ] {
            assert!(!passed(&[], other), "{other}");
        }
        assert!(passed(&["A", "B"], "A") && passed(&["A", "B"], "B") && !passed(&["A"], "B"));
        assert!(passed(&["*"], "ANYTHING") && passed(&["*"], ""));
    }

    #[test]
    fn credentials_of_the_cluster_are_never_passed() {
        for names in [&["*"][..], &["TRIARCH_AUTH_TOKEN"], &[]] {
            assert!(!passed(names, "TRIARCH_AUTH_TOKEN"), "{names:?}");
        }
        for refused in ["TRIARCH_AUTH_TOKEN", "", "A=B", "A*"] {
            assert!(PassedEnvironment::parse_name(refused).is_err(), "{refused}");
        }
        assert_eq!(PassedEnvironment::parse_name("*"), Ok("*".to_owned()));
    }
}
