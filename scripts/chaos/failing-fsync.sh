#!/usr/bin/env bash
# Makes a sync of one master's disk fail with EIO under load (--times 5): the master must end by itself, and is started
# again. Needs strace.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" failing-fsync "$@"
