//! Empty stand-in for chrono-tz 0.8.
//!
//! openraft depends on `display-more`, whose manifest lists chrono-tz 0.8 although its code never uses it. That crate and
//! the 17 others that it brings in would otherwise be compiled for nothing. Time zones of schedules come from chrono-tz 0.10.
