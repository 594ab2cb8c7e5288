#!/usr/bin/env bash
# Gives a cluster as much work as it takes (--minutes 60), without any fault, and counts elections: there must be none. See
# --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" full-load "$@"
