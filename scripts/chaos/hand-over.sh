#!/usr/bin/env bash
# Hands leadership over again and again (--times 100) while programs use the cluster, and tells how long nobody was
# acknowledged anything. No call may fail. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" hand-over "$@"
