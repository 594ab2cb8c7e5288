#!/usr/bin/env bash
# Sets one master's wall clock wrong after the other's (--jumps 6), while it follows, leads and starts, and checks that no
# tick of a schedule, no lease and no delay goes wrong by it. Needs libfaketime (Debian package faketime). See --help for the
# options and the exit codes.
exec "$(dirname "$0")/start.sh" clock-jumps "$@"
