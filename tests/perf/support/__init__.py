"""Support for the benchmarks: clusters to measure, sandboxes for other programs, pages and plots."""
