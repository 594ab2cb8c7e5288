//! Test support: openraft's conformance suite, fuzz targets, and hooks of benchmarks. Never part of the product.

/// For `tests/perf/micro` alone.
#[cfg(feature = "measuring")]
pub mod bench_hooks;
/// For `fuzz/` alone.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod openraft_suite;
