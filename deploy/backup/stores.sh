# shellcheck shell=bash disable=SC2317
# How backup.sh and restore.sh reach the two servers: in docker-compose.yml, or as services of this machine.
#
# Each way has the same five steps: nats_stop, nats_start, redis_stop, redis_start, redis_save; and two pipes: read_files STORE
# FILE... and write_files STORE, with tar archives of the store's directory. Nothing here may decide an order.

# --- compose: run in the repository, with the same environment and .env as docker compose up ---
use_compose() {
  nats_stop() { docker compose stop nats; }
  nats_start() { docker compose up -d --no-deps --no-recreate --wait nats; }
  redis_stop() { docker compose stop redis; }
  redis_start() { docker compose up -d --no-deps --no-recreate --wait redis; }
  # shellcheck disable=SC2016
  redis_command() {
    docker compose exec -T redis sh -c 'REDISCLI_AUTH="$(cat /run/secrets/redis-backup)" exec redis-cli -e --no-auth-warning --user backup "$@"' sh "$@"
  }
  # The volumes' owner can read and write both, as the user the servers run as.
  in_volumes() { docker compose run --rm -T --no-deps --quiet-pull --entrypoint "$1" volume-owner "${@:2}"; }
  read_files() { in_volumes tar -C "/var/lib/$1" -cf - "${@:2}"; }
  write_files() {
    in_volumes find "/var/lib/$1" -mindepth 1 -delete < /dev/null
    in_volumes tar -C "/var/lib/$1" -xf -
  }
}

# --- local: servers on this machine; what differs is in the environment ---
use_local() {
  : "${NATS_DIR:=/var/lib/nats}" "${REDIS_DIR:=/var/lib/redis}"
  : "${NATS_STOP:=systemctl stop nats-server}" "${NATS_START:=systemctl start nats-server}"
  : "${REDIS_STOP:=systemctl stop redis-server}" "${REDIS_START:=systemctl start redis-server}"
  : "${REDIS_CLI:=redis-cli}"
  nats_stop() { bash -c "$NATS_STOP"; }
  nats_start() { bash -c "$NATS_START"; }
  redis_stop() { bash -c "$REDIS_STOP"; }
  redis_start() { bash -c "$REDIS_START"; }
  redis_command() { bash -c "$REDIS_CLI \"\$@\"" redis-cli "$@"; }
  directory() { if [ "$1" = nats ]; then echo "$NATS_DIR"; else echo "$REDIS_DIR"; fi; }
  read_files() { tar -C "$(directory "$1")" -cf - "${@:2}"; }
  write_files() {
    local to owner
    to=$(directory "$1")
    owner=$(stat -c %u:%g "$to")
    find "$to" -mindepth 1 -delete
    tar -C "$to" --no-same-owner -xf -
    chown -R "$owner" "$to"
  }
}

# Writes everything to Redis' snapshot file and waits until that is done.
redis_save() {
  local before now
  before=$(redis_command lastsave)
  # The time has a resolution of one second, and must move.
  sleep 1.1
  redis_command bgsave > /dev/null
  for _ in $(seq 600); do
    now=$(redis_command lastsave)
    [ "$now" = "$before" ] || break
    sleep 0.5
  done
  [ "$now" != "$before" ] || { echo "Redis has not finished its snapshot after five minutes" >&2; return 1; }
  redis_command info persistence | tr -d '\r' | grep -qx rdb_last_bgsave_status:ok
}

choose() {
  case $1 in
    compose) use_compose ;;
    local) use_local ;;
    *) echo "unknown way to reach the servers: $1; compose or local" >&2; return 2 ;;
  esac
}
