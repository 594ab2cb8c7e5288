//! Test support: the entry points of the fuzz targets. Not compiled into the product.

/// Fuzz targets, for `fuzz/` alone.
pub mod fuzzing;
