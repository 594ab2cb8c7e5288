#!/usr/bin/env bash
# Stops the leader, a follower and a worker in turn with SIGSTOP under load (--times 5), for 0.1 to 30 s each
# (--hold-max-ms), and checks that nothing acknowledged is lost or accepted twice.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" pause "$@"
