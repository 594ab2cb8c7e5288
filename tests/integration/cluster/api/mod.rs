//! The HTTP interface as clients see it: submission, reads, lists, long polls, event streams and refusals, at any node.

mod bad_input;
mod basics;
mod browser_guard;
mod client_disconnects;
mod events;
mod explain;
mod forwarding;
mod list_filters;
mod live_output;
mod openapi;
mod pagination;
mod redirects;
mod repeated_requests;
mod staged_jobs;
mod task_wait;
mod unique_keys;
mod worker_secrets;
mod wrong_parts;
