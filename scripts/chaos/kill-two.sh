#!/usr/bin/env bash
# Kills any two of the three masters at once under load (--times 5): the third acknowledges nothing alone. Checks that
# nothing acknowledged is lost.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-two "$@"
