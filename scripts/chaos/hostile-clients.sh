#!/usr/bin/env bash
# An hour of hostile clients: silent connections, stalled bodies, unread answers, watchers, oversized heads, wrong peers and
# garbage at once, against a cluster under ordinary load. Half of it is the comparison beside busy processors. See --help for
# the options and the exit codes.
exec "$(dirname "$0")/start.sh" hostile-clients "$@"
