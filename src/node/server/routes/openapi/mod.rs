//! `/openapi.json`: the OpenAPI document of the interface.
//!
//! Routes and their descriptions come from the same place (`routes!` takes a handler with its `#[utoipa::path]`).
//! Schemas come from the types that are really read and written. The document therefore cannot become outdated.
//! `document` adds the parts that many routes have in common: problems and headers. `shape` gives the result the forms that
//! generators of clients need.

mod document;
mod handler;
mod shape;

pub use document::complete;
#[cfg(test)]
pub use document::operations;
pub use handler::{routes, serialize};
