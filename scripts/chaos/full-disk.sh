#!/usr/bin/env bash
# Fills the masters' disks under load (--rounds 2): a follower's, the leader's, all of them, and makes room again; checks
# that work goes on where it can, that writes are refused where it cannot, and that nothing acknowledged is lost. Needs
# root, for small disks of its own. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" full-disk "$@"
