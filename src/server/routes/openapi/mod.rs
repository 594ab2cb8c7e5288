//! `/openapi.json`: the OpenAPI document of the interface.
//!
//! Routes and their descriptions come from the same place (`routes!` takes a handler with its `#[utoipa::path]`), and schemas
//! from the types that are really read and written, so the document cannot fall behind. `document` adds what many routes have
//! in common: problems and headers.

mod document;
mod handler;

pub use document::complete;
#[cfg(test)]
pub use document::operations;
pub use handler::{routes, serialize};
