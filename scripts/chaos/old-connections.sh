#!/usr/bin/env bash
# Lets old connections between the masters pass nothing, while new ones work (--times 5).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" old-connections "$@"
