#!/usr/bin/env bash
# Kills a follower with SIGKILL under load repeatedly (--times 5), and checks that nothing acknowledged is lost.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" kill-follower "$@"
