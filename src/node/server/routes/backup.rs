//! Backup and restore: streams a backup of the table without blocking applies, and stages the parts of an uploaded one.
//!
//! Any node streams a backup of its own table, once it has applied everything acknowledged before the request. A
//! follower can therefore serve it and spare the leader. A truncated backup is detected by its missing end marker.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use triarch_areas::backup_format::{Header, Writer};
use triarch_areas::state::FrozenState;
use triarch_raft::{Leadership, Level, low_priority};
use triarch_sdk::wire;
use triarch_table::command::RestorePart;
use triarch_table::records::pending_restore::{PART_BYTES_MAX, PARTS_MAX};
use triarch_table::{Command, Reply};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::app::App;
use crate::server::leader_proxy;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::headers::{INDEX, NO_BUFFERING};
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::Query;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate::NAME_BYTES_MAX;
use crate::server::routes::extractors::wait_for_min_index;

/// Size in bytes of a chunk passed to the connection.
const CHUNK_BYTES: usize = 256 << 10;
/// Maximum number of chunks that wait for the connection.
const QUEUED_CHUNKS_MAX: usize = 4;
/// Maximum time without the client taking a chunk.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for this node to apply everything acknowledged.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before the leader is asked again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Local routes, which every node answers itself.
pub fn local_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(backup))
}

/// Client routes, which go to the leader.
pub fn client_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(restore))
}

/// Returns a backup of the whole table at one log index, for `POST /v1/cluster/restore` of a new cluster.
#[utoipa::path(
    get,
    path = "/v1/cluster/backup",
    tag = "cluster",
    params(wire::ReadQuery),
    responses((
        status = 200,
        description = "Backup file. It is complete only if its end marker is present.",
        body = Vec<u8>,
        content_type = "application/octet-stream"
    ))
)]
async fn backup(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, HandlerError> {
    let query = Query::parse(query.as_deref(), &[])?;
    let stale = query.asks_for_stale()?;
    let permit = Arc::clone(&app.backup_permit).try_acquire_owned();
    let permit = permit.map_err(|_| {
        Problem::new(
            Code::RateLimited,
            "this node is already sending a backup; use another node, or retry later",
        )
    })?;
    if !stale {
        catch_up(&app).await?;
    }
    wait_for_min_index(&app, &headers).await?;
    let Some(cluster_id) = app.node.status().cluster_id else {
        return Err(Problem::no_leader("the cluster has not formed yet").into());
    };
    let (frozen, mut header) = app.table.freeze(|table| Header {
        backup: uuid::Uuid::new_v4().to_string(),
        cluster_id,
        index: table.last_index(),
        table_ms: table.now_ms(),
        jobs: table.jobs_len() as u64,
        tasks: table.counts().total(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        level: Level::ONE.number(),
    });
    header.level = frozen.level.number();
    let index = header.index;
    let (chunks, queue) = mpsc::channel(QUEUED_CHUNKS_MAX);
    let runtime = Handle::current();
    tokio::spawn(low_priority::run("backup", move || {
        let _permit = permit;
        let started = std::time::Instant::now();
        let out = ChunkWriter { runtime, chunks };
        match write(frozen, &header, out) {
            Ok(()) => tracing::info!(
                index,
                backup = header.backup,
                took_ms = started.elapsed().as_millis(),
                "backup sent"
            ),
            Err(error) => tracing::warn!(index, %error, "a backup was interrupted"),
        }
    }));
    let mut response = Response::new(Body::from_stream(stream::unfold(
        queue,
        async |mut queue| Some((queue.recv().await?, queue)),
    )));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(NO_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(INDEX, HeaderValue::from(index));
    Ok(response)
}

fn write(frozen: FrozenState, header: &Header, out: ChunkWriter) -> io::Result<()> {
    let mut writer = Writer::begin(BufWriter::with_capacity(CHUNK_BYTES, out), header)?;
    frozen.write(&mut writer)?;
    writer.finish()?.into_inner().map_err(io::Error::from)?;
    Ok(())
}

/// Blocking writer over a bounded queue of chunks for the connection.
struct ChunkWriter {
    runtime: Handle,
    chunks: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = Ok(Bytes::copy_from_slice(bytes));
        match self
            .runtime
            .block_on(self.chunks.send_timeout(chunk, STALL_TIMEOUT))
        {
            Ok(()) => Ok(bytes.len()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the client has disconnected",
            )),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client has stopped reading",
            )),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until this node has applied everything that was acknowledged anywhere when the request came.
async fn catch_up(app: &App) -> Result<(), HandlerError> {
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let leadership = app.node.leadership().borrow().clone();
        let index = match leadership {
            Leadership::Leading { .. } => app.node.read_barrier().await.ok(),
            Leadership::Following { addr, .. } => {
                leader_proxy::leader_index(app, &addr, deadline).await
            }
            Leadership::Unknown { .. } => None,
        };
        if let Some(index) = index {
            let left = deadline.saturating_duration_since(Instant::now());
            return match app.node.wait_applied(index, left).await {
                Ok(_) => Ok(()),
                Err(_) => Err(Problem::new(
                    Code::Timeout,
                    "this node has not caught up in time; use another node, or consistency=stale",
                )
                .into()),
            };
        }
        if Instant::now() + RETRY_DELAY >= deadline {
            return Err(Problem::no_leader(
                "no leader confirms the latest acknowledged write; retry, or use consistency=stale for this node's own state",
            )
            .into());
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// Receives one part of a backup. The cluster must be empty; the last part replaces its table by that of the backup. A
/// part may be repeated, and so may the whole restore.
#[utoipa::path(
    post,
    path = "/v1/cluster/restore",
    tag = "cluster",
    params(wire::RestoreQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 202, description = "Part received; other parts are missing.", body = wire::RestoreProgress),
        (status = 200, description = "All parts received; the table is restored.", body = wire::RestoreProgress),
    )
)]
async fn restore(
    State(app): State<App>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let query = Query::parse(query.as_deref(), &["backup", "part", "parts"])?;
    let Some(backup) = query
        .text("backup")
        .filter(|id| (1..=NAME_BYTES_MAX).contains(&id.len()))
    else {
        return Err(Problem::invalid("backup", "must be the id of the backup").into());
    };
    let number = |name: &'static str| match query.parsed::<u32>(name, "a number from 1") {
        Ok(Some(number)) if (1..=PARTS_MAX).contains(&number) => Ok(number),
        Ok(_) => Err(Problem::invalid(name, format!("must be 1 to {PARTS_MAX}"))),
        Err(problem) => Err(problem),
    };
    let (part, parts) = (number("part")?, number("parts")?);
    if part > parts {
        let problem = format!("must be 1 to {parts}, the number of parts");
        return Err(Problem::invalid("part", problem).into());
    }
    if body.len() > PART_BYTES_MAX {
        return Err(Problem::new(
            Code::PayloadTooLarge,
            format!("one part of a backup has at most {PART_BYTES_MAX} bytes"),
        )
        .with("body_bytes_max", PART_BYTES_MAX)
        .into());
    }
    app.check_table_memory(body.len())?;
    let restore = RestorePart {
        backup: backup.to_owned(),
        part,
        parts,
        bytes: body,
    };
    let command = match app.table.level() {
        Level::ONE => Command::RestorePart(restore),
        _ => Command::RestorePartOfLevel2(restore),
    };
    let repeated = app.table.read().restored_backup() == Some(backup);
    let (index, reply) = app.propose(&command).await?;
    match reply {
        Reply::Restoring { received, parts } => ApiResponse::accepted(
            index,
            &wire::RestoreProgress {
                received,
                parts,
                restored: None,
            },
        ),
        Reply::Restored { jobs, tasks } => {
            if !repeated {
                tracing::info!(index, backup, jobs, tasks, "a backup was restored");
            }
            ApiResponse::ok(
                index,
                &wire::RestoreProgress {
                    received: parts,
                    parts,
                    restored: Some(wire::Restored {
                        jobs,
                        tasks,
                        repeated,
                    }),
                },
            )
        }
        other @ (Reply::Submitted { .. }
        | Reply::Staged { .. }
        | Reply::Registered { .. }
        | Reply::Granted { .. }
        | Reply::Reported { .. }
        | Reply::Done { .. }
        | Reply::Refused(_)
        | Reply::SchedulePut { .. }) => Err(app.unexpected_reply(&other)),
    }
}
