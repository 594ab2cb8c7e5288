#!/usr/bin/env bash
# Cuts the leader off and on again several times a second under load (--times 5): in network namespaces as root, else by
# proxies (--network wires).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" cut-flapping "$@"
