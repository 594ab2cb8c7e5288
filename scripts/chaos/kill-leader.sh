#!/usr/bin/env bash
# Kills the leader with SIGKILL under load repeatedly (--kills 50), and reports how long no job was acknowledged
# and whether anything acknowledged was lost or done twice. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-leader "$@"
