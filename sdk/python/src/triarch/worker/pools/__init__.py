"""Pools in which tasks run: processes, threads, or an event loop."""
