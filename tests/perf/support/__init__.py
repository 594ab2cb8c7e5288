"""What the benchmarks share: clusters to measure, the stage for other programs, pages and plots."""
