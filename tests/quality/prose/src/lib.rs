//! Checks of the repository's texts: links between pages, and phrases that prose avoids.
//!
//! This crate needs neither the product nor another crate, so it is built in a second.

mod files;
mod links;
mod phrases;

pub use files::{TextFile, markdown_pages, repository_root, texts_with_prose};
pub use links::broken_links;
pub use phrases::avoided_phrases;
