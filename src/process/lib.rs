//! Process of the program, whatever it runs: its log lines, its signals, its end by a panic, its private files, and text
//! that is safe on a terminal.

pub mod log_writer;
pub mod panic_exit;
pub mod private_files;
pub mod signals;
pub mod terminal_text;
