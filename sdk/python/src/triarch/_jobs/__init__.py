"""Batched submission of jobs, and the wait for their ends."""
