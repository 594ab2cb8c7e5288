//! Manual pages, made from the help texts of the command line.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

/// Name of the manual in the head of each page.
const MANUAL: &str = "Triarch";

/// Writes a page for a command and each of its subcommands, such as `triarch-task-list.1`. Returns their number.
pub fn write(command: Command, dir: &Path) -> io::Result<usize> {
    fs::create_dir_all(dir)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_below(&command, dir)
}

fn write_below(command: &Command, dir: &Path) -> io::Result<usize> {
    let mut pages = 1;
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        pages += write_below(below, dir)?;
    }
    // The date of a page would differ from build to build.
    Man::new(command.clone()).manual(MANUAL).generate_to(dir)?;
    Ok(pages)
}
