#!/usr/bin/env bash
# Transfers leadership repeatedly (--times 100) while programs use the cluster, and reports how long no job was
# acknowledged. No call may fail. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" hand-over "$@"
