//! Workers that the test itself drives over HTTP.

pub mod fake_worker;
pub mod fake_workers;
pub mod misbehaving_worker;
