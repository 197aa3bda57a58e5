# shellcheck shell=bash
# The Docker engine of try-compose: a private one, in network, mount and process namespaces of its own, so that ending its
# first process ends every container, however badly things went. It must never touch an engine that runs already.
: "${work:?}" "${tools:?}"

engine_start() {
  export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/config
  # The old builder needs neither a plugin nor a frontend from a registry.
  export DOCKER_BUILDKIT=0
  mkdir -p "$DOCKER_CONFIG/cli-plugins"
  ln -s "$tools/bin/docker-compose" "$DOCKER_CONFIG/cli-plugins/docker-compose"
  # In a session of its own: a Ctrl-C that reaches this script must not reach the engine before the script is done with it.
  # shellcheck disable=SC2016
  setsid unshare --net --mount --pid --fork --mount-proc --kill-child sh -c 'ip link set lo up
    exec dockerd -H "unix://$1/docker.sock" --data-root "$1/data" --exec-root "$1/exec" -p "$1/docker.pid" --log-level warn' \
    dockerd "$work" > "$work/engine.log" 2>&1 &
  engine_job=$!
  for _ in $(seq 150); do
    if docker version > /dev/null 2>&1; then return; fi
    kill -0 "$engine_job" 2>/dev/null || break
    sleep 0.2
  done
  tail -20 "$work/engine.log" >&2
  echo "try-compose: the Docker engine did not start" >&2
  return 1
}

# Runs a command where the engine's processes and ports are.
inside_engine() { nsenter --target "$(pgrep -P "$engine_job")" --net --mount --pid "$@"; }

engine_stop() {
  [ -n "${engine_job:-}" ] || return 0
  # Killing unshare kills the first process of its namespace, and the kernel then kills all others in it.
  kill -KILL "$engine_job" 2>/dev/null || true
  wait "$engine_job" 2>/dev/null || true
}
