#!/usr/bin/env bash
# Half an hour of hostile clients against a cluster under ordinary load: silent connections, stalled bodies, unread answers,
# watchers, oversized heads, wrong peers and garbage at once. For half an hour before, threads only keep the processors busy,
# for comparison. See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" hostile-clients "$@"
