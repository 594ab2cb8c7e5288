#!/usr/bin/env bash
# Lets all arrive that the leader asks its followers, but none of their answers, under load (--times 5): in network
# namespaces as root, else by proxies (--network wires).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" cut-responses "$@"
