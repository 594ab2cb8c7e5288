#!/usr/bin/env bash
# Kills a master with SIGKILL under load and deletes its directory (--rounds 3), puts a new one in its place by one command,
# and checks that nothing acknowledged is lost. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" replace-node "$@"
