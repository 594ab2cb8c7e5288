#!/usr/bin/env bash
# Makes everything late by 10 to 180 ms that one master and the others say to each other, under load (--times 5), by
# proxies.
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" delay "$@"
