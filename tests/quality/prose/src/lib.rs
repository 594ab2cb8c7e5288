//! Checks of the repository's texts: links between pages.
//!
//! Needs neither the product nor another crate, so it is built in a second.

mod files;
mod links;

pub use files::{TextFile, markdown_pages, repository_root};
pub use links::broken_links;
