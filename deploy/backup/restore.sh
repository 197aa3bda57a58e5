#!/usr/bin/env bash
# Puts a backup in the place of everything both servers hold. What they held is gone afterwards.
#
#   deploy/backup/restore.sh compose|local FILE.tar --yes
#
# Stop coordinators and workers first, and read "After a restore" in deploy/README.md before starting them again: what was paid
# since the backup is in no ledger any more.
set -euo pipefail
if [ $# != 3 ] || [ "$3" != --yes ]; then sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
# shellcheck source=deploy/backup/stores.sh
source "$(dirname "$0")/stores.sh"
choose "$1"
source_file=$(realpath "$2")

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xf "$source_file"
(cd "$work" && sha256sum --quiet --check SHA256SUMS)
echo "restoring the state of $(cat "$work/taken")"

nats_stop
redis_stop
write_files nats < "$work/nats.tar"

# Redis reads its append-only log, not the snapshot; a log may begin with a snapshot, so this makes one that is nothing else.
mkdir -p "$work/redis/appendonlydir"
tar -C "$work/redis" -xf "$work/redis.tar"
mv "$work/redis/dump.rdb" "$work/redis/appendonlydir/appendonly.aof.1.base.rdb"
echo 'file appendonly.aof.1.base.rdb seq 1 type b' > "$work/redis/appendonlydir/appendonly.aof.manifest"
tar -C "$work/redis" -cf - . | write_files redis

nats_start
redis_start
echo "restored; now see \"After a restore\" in deploy/README.md before any worker starts"
