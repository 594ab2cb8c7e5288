#!/usr/bin/env bash
# Cuts the power of the leader's and of a follower's disk in turn under load (--times 5): what was not synced is gone.
# Needs root, loop devices and mkfs.ext4, and exits with 77 where it cannot have them.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" power-cut-one "$@"
