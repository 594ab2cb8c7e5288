#!/usr/bin/env bash
# Kills all masters and all workers at once under load (--times 5), and checks that nothing acknowledged is lost.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-everything "$@"
