#!/usr/bin/env bash
# Injects faults of all kinds for a given time (--minutes 60), up to three at once, some for half a minute, and
# checks that nothing acknowledged is lost or accepted twice. Prints its seed (--seed).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" soak "$@"
