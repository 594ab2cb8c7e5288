#!/usr/bin/env bash
# Stops the leader with SIGSTOP under load (--pauses 5) while another takes over, wakes it, and checks that it tells
# nothing from its lost leadership. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" pause-leader "$@"
