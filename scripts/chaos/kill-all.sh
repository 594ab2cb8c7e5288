#!/usr/bin/env bash
# Kills all masters at once under load and starts them again (--rounds 5), then checks that nothing acknowledged is
# lost. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-all "$@"
