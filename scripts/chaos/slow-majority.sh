#!/usr/bin/env bash
# Makes every sync of two masters' disks take 400 to 1,500 ms under load (--times 5). Needs strace.
# Ten minutes of it, with at most three elections: --times 1 --hold-min-ms 600000
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" slow-majority "$@"
