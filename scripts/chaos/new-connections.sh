#!/usr/bin/env bash
# Refuses new connections between the masters, and lets them hang, while old ones live (--times 5).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" new-connections "$@"
