#!/usr/bin/env bash
# Brings two masters in and takes two out again under load (--rounds 3), each time the leader among them, and checks that
# nothing acknowledged is lost. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" grow-shrink "$@"
