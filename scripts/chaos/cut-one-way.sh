#!/usr/bin/env bash
# Lets nothing arrive that the leader sends to its followers, but all that they send to it, under load (--times 5): in
# network namespaces as root, else by proxies (--network wires).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" cut-one-way "$@"
