//! Test support: the switch for deliberate bugs, and the entry points of the fuzz targets.

#[macro_use]
mod mutated;

/// For `fuzz/` alone.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
