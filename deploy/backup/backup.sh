#!/usr/bin/env bash
# Writes everything a fleet knows into one file: job logs, queues, artifacts (NATS) and state, money (Redis).
#
#   deploy/backup/backup.sh compose|local FILE.tar
#
# The order is the point: NATS first, Redis after it. So the ledger in a backup is never older than the events, and restoring
# it can only make a fleet take more for spent than it has evidence for, never less. NATS is down for the seconds that copying
# takes, which the fleet bridges: nothing is lost and no call is repeated. Redis goes on.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
# shellcheck source=deploy/backup/stores.sh
source "$(dirname "$0")/stores.sh"
choose "$1"
target=$(realpath -m "$2")
[ ! -e "$target" ] || { echo "backup: $target exists already" >&2; exit 1; }

umask 077
work=$(mktemp -d "$(dirname "$target")/.backup.XXXXXX")
stopped=no
finish() {
  local code=$?
  [ $stopped = no ] || nats_start || echo "backup: NATS could not be started again" >&2
  rm -rf "$work"
  exit $code
}
trap finish EXIT

began=$SECONDS
stopped=yes
nats_stop
read_files nats . > "$work/nats.tar"
nats_start
stopped=no
echo "NATS: $(stat -c %s "$work/nats.tar") bytes, away for $((SECONDS - began)) s"

redis_save
read_files redis dump.rdb > "$work/redis.tar"
echo "Redis: $(stat -c %s "$work/redis.tar") bytes"

(cd "$work" && date -u +%Y-%m-%dT%H:%M:%SZ > taken && sha256sum nats.tar redis.tar taken > SHA256SUMS)
tar -C "$work" -cf "$work/all" nats.tar redis.tar taken SHA256SUMS
sync "$work/all"
mv "$work/all" "$target"
echo "$target: $(stat -c %s "$target") bytes"
