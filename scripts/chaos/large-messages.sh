#!/usr/bin/env bash
# Lets small messages between the masters pass and large ones not, the leader's and then everybody's (--times 5).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" large-messages "$@"
