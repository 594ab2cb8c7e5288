"""Measurements of the whole product, for docs/performance.md: `scripts/bench.sh` runs them."""
