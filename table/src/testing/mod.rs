//! Test support: the entry points of the fuzz targets. Not compiled into the product.

/// For `fuzz/` alone.
pub mod fuzzing;
