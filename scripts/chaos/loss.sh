#!/usr/bin/env bash
# Loses 5 to 40 of 100 packets between one master and the others under load (--times 5). Needs root and iptables, and
# exits with 77 where it cannot have them.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" loss "$@"
