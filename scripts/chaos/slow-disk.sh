#!/usr/bin/env bash
# Makes every sync of one master's disk take 30 to 300 ms under load (--times 5). Needs strace.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" slow-disk "$@"
