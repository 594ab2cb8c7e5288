#!/usr/bin/env bash
# Stops each master in turn and starts it again by the same command, under load (--rounds 3; --kill9 for SIGKILL), and checks
# that no call of the client failed and nothing acknowledged is lost. On a cluster of its own; docs/operations.md says how to
# do it to a real one. See --help for the options and the exit codes.
exec "$(dirname "$0")/chaos/start.sh" rolling-restart "$@"
