//! Test support: openraft's conformance suite, fuzz targets, and hooks of benchmarks. Never part of the product.

/// Hooks for `tests/perf/micro` alone.
#[cfg(feature = "measuring")]
pub mod bench_hooks;
/// Fuzz targets for `fuzz/` alone.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod openraft_suite;
