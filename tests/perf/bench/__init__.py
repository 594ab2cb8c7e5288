"""Measurements of the whole, for docs/performance.md: `scripts/bench.sh` runs them."""
