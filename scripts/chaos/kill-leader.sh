#!/usr/bin/env bash
# Kills the leader with SIGKILL under load, again and again (--kills 50), and tells how long nobody acknowledged anything
# and whether anything acknowledged was lost or done twice. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-leader "$@"
