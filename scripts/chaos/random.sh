#!/usr/bin/env bash
# Injects faults of all kinds that this machine allows (--faults 40), up to three at once, and checks that nothing
# acknowledged is lost or accepted twice. Prints its seed (--seed).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" random "$@"
