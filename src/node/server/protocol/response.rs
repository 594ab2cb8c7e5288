//! Successful responses: JSON, with the log index whose state they show.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use triarch_table::Table;

use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::headers::INDEX;

/// Successful response: a JSON body and the log index whose state it shows.
pub struct ApiResponse {
    status: StatusCode,
    index: u64,
    body: Vec<u8>,
}

impl ApiResponse {
    /// Builds a `200` with this body.
    pub fn ok<T: Serialize>(index: u64, body: &T) -> Result<Self, HandlerError> {
        Self::with(StatusCode::OK, index, body)
    }

    /// Builds a `200` with a body read from the current table. Its index is `index`, or the table's own if that is
    /// later.
    ///
    /// Other requests may have changed the table since `index` was taken, and the body shows that too. A client that
    /// asks another node for this index must not be shown an older state there.
    pub fn from_table<T: Serialize>(
        table: &Table,
        index: u64,
        body: &T,
    ) -> Result<Self, HandlerError> {
        Self::ok(index.max(table.last_index()), body)
    }

    /// Builds a `200` with a page read from the current table, already as JSON. See [`ApiResponse::from_table`].
    pub fn page(table: &Table, index: u64, body: Vec<u8>) -> Self {
        Self {
            status: StatusCode::OK,
            index: index.max(table.last_index()),
            body,
        }
    }

    /// Builds a `201` with this body.
    pub fn created<T: Serialize>(index: u64, body: &T) -> Result<Self, HandlerError> {
        Self::with(StatusCode::CREATED, index, body)
    }

    /// Builds a `202` with this body.
    pub fn accepted<T: Serialize>(index: u64, body: &T) -> Result<Self, HandlerError> {
        Self::with(StatusCode::ACCEPTED, index, body)
    }

    fn with<T: Serialize>(status: StatusCode, index: u64, body: &T) -> Result<Self, HandlerError> {
        let body = serde_json::to_vec(body).map_err(|error| {
            HandlerError::OutcomeUnknown(format!("the response cannot be serialized: {error}"))
        })?;
        Ok(Self {
            status,
            index,
            body,
        })
    }
}

impl IntoResponse for ApiResponse {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
            .headers_mut()
            .insert(INDEX, HeaderValue::from(self.index));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use triarch_table::{Limits, Stamp};

    #[test]
    fn a_response_from_the_table_carries_an_index_that_covers_all_it_shows() {
        let mut table = Table::new(Limits::default());
        let stamp = Stamp {
            index: 5,
            now_ms: 1,
        };
        table.apply(stamp, Vec::new(), &mut Vec::new());
        for (index, stands_for) in [(3, 5), (5, 5), (7, 7)] {
            let response = ApiResponse::from_table(&table, index, &())
                .unwrap()
                .into_response();
            assert_eq!(response.headers()[INDEX], stands_for.to_string());
        }
    }
}
