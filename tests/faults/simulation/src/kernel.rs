//! The simulated kernel as a library: `kernel/*.c`, built with `cc` at first use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

const SOURCES: [(&str, &str); 9] = [
    ("kernel.h", include_str!("../kernel/kernel.h")),
    (
        "power_cut.h",
        include_str!("../../crash_shim/src/power_cut.h"),
    ),
    ("raw.c", include_str!("../kernel/raw.c")),
    ("clock.c", include_str!("../kernel/clock.c")),
    ("threads.c", include_str!("../kernel/threads.c")),
    ("poll.c", include_str!("../kernel/poll.c")),
    ("sockets.c", include_str!("../kernel/sockets.c")),
    ("disk.c", include_str!("../kernel/disk.c")),
    ("link.c", include_str!("../kernel/link.c")),
];

/// Returns the library, built next to this program unless it exists.
pub fn library() -> anyhow::Result<PathBuf> {
    let mut digest = 0xCBF2_9CE4_8422_2325_u64;
    for byte in SOURCES.iter().flat_map(|(_, text)| text.bytes()) {
        digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    let program = std::env::current_exe().context("this program has no path")?;
    let beside = program
        .parent()
        .context("this program is in no directory")?;
    let library = beside.join(format!("triarch-sim-kernel-{digest:016x}.so"));
    if !library.exists() {
        build(beside, &library)?;
    }
    Ok(library)
}

fn build(beside: &Path, library: &Path) -> anyhow::Result<()> {
    let dir = beside.join(format!("triarch-sim-kernel-{}", std::process::id()));
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("{} cannot be written", dir.display()))?;
    for (name, text) in SOURCES {
        std::fs::write(dir.join(name), text)?;
    }
    let made = dir.join("kernel.so");
    let sources = SOURCES.iter().filter(|(name, _)| name.ends_with(".c"));
    let output = Command::new("cc")
        .args([
            "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        ])
        .args(["-ftls-model=initial-exec", "-o"])
        .arg(&made)
        .args(sources.map(|(name, _)| dir.join(name)))
        .args(["-ldl", "-lpthread"])
        .output()
        .context("cannot run cc: the simulation needs a C compiler (Debian: build-essential)")?;
    if !output.status.success() {
        bail!(
            "the simulated kernel does not compile: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    std::fs::rename(&made, library)?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
