#!/usr/bin/env bash
# Takes a backup of a cluster under load, kills all of it, restores the backup into a new cluster while that one's leader
# is killed too, and checks that everything acknowledged before the backup is there and finishes (--backups 3 takes several,
# the last one counts). See --help for the options and the exit codes.
exec "$(dirname "$0")/start.sh" backup-restore "$@"
