#!/usr/bin/env bash
# Lets a schedule tick every second for three minutes (--seconds 180) while the leader is killed with SIGKILL every ten
# (--every 10) and started again, and checks that each tick made exactly one job. See --help for the exit codes.
exec "$(dirname "$0")/start.sh" schedule-ticks "$@"
