#!/usr/bin/env bash
# Lets one master open no more descriptors (--times 5).
# See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" descriptors "$@"
