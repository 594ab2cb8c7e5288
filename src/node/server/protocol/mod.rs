//! Wire protocol shared by all routes: problem details (RFC 9457), strict JSON, query strings and responses.
//!
//! # Invariants
//!
//! - Nothing here knows a route or performs input or output: bytes in, values or problems out.
//! - Unknown fields and unknown query parameters are refused by name.

pub mod handler_error;
pub mod headers;
pub mod json;
pub mod json_parts;
pub mod page;
pub mod problem;
pub mod query;
pub mod response;
pub mod strict_json;
pub mod validate;
