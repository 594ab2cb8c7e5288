"""Clients that generators make of /openapi.json: generated, compiled, and used against a cluster. See `scripts/compat.sh`."""
