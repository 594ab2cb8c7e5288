//! Location of the program under test.

use std::path::PathBuf;
use std::sync::OnceLock;

/// Returns the path of `triarch`: `TRIARCH_BIN` if set, else the program that was built next to this executable.
pub fn triarch() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let given = std::env::var_os("TRIARCH_BIN").map(PathBuf::from);
            let path = given.unwrap_or_else(beside_this_executable);
            path.canonicalize().unwrap_or_else(|error| {
                panic!("there is no triarch at {}: {error}", path.display())
            })
        })
        .clone()
}

/// Tests live in `target/<profile>/deps`, other programs of the workspace in `target/<profile>`.
fn beside_this_executable() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this executable");
    let mut dir = own.parent().expect("an executable is in a directory");
    if dir.ends_with("deps") {
        dir = dir.parent().expect("deps is in a directory");
    }
    dir.join("triarch")
}
