# shellcheck shell=bash
# What try-compose does with the stack: start it, look at it from outside, run a job, count.
: "${work:?}" "${root:?}" "${example:?}"

# docker compose with the demonstration's settings, secrets made for this run, and the images made for it.
stack() {
  COMPOSE_ENV_FILES='' SECRETS_DIR=$work/secrets ANTHROPIC_API_KEY_FILE=$work/secrets/anthropic-api-key \
    CODESWARM_IMAGE=codeswarm:local NATS_IMAGE=codeswarm-servers:debian REDIS_IMAGE=codeswarm-servers:debian \
    DEMO_EXAMPLE=$example docker compose --project-directory "$root" -f "$root/docker-compose.yml" \
    --env-file "$root/deploy/demo.env" "$@"
}

stack_up() {
  env -u ANTHROPIC_API_KEY "$root/deploy/make-secrets" "$work/secrets" > /dev/null 2>&1
  if ! stack up -d --wait --wait-timeout 120 --no-build --pull never > "$work/up.log" 2>&1; then
    grep -v -E 'Started|Created|Running|Waiting' "$work/up.log" | tail -20 >&2
    stack ps -a >&2
    stack logs --tail 15 >&2
    return 1
  fi
  say "stack: $(stack ps -q | wc -l) containers are up, $(docker ps --filter health=healthy -q | wc -l) of them say they are healthy"
}

# What the file promises, as the kernel sees it: nobody is root, nothing is writable, no capability is left.
stack_contained() {
  local id state pid locked name
  for id in $(stack ps -q); do
    state=$(docker inspect -f '{{.State.Pid}} {{.HostConfig.ReadonlyRootfs}} {{.Name}}' "$id")
    read -r pid locked name <<< "$state"
    [ "$locked" = true ] || { echo "try-compose: $name can write its root file system" >&2; return 1; }
    awk -v name="$name" '
      /^Uid:/ && ($2 == 0 || $3 == 0) { print name " runs as root"; bad = 1 }
      /^Cap(Eff|Prm|Bnd):/ && $2 !~ /^0+$/ { print name " has capabilities " $2; bad = 1 }
      /^NoNewPrivs:/ && $2 != 1 { print name " may gain privileges"; bad = 1 }
      END { exit bad }' < <(inside_engine cat "/proc/$pid/status") >&2
  done
  say "contained: every process is unprivileged, without capabilities, on a read-only root"
}

stack_scale() {
  stack up -d --wait --wait-timeout 60 --no-build --pull never --no-recreate --scale worker-backend=5 > "$work/up.log" 2>&1 \
    || { tail -5 "$work/up.log" >&2; return 1; }
  local count
  count=$(stack ps -q worker-backend | wc -l)
  [ "$count" = 5 ] || { echo "try-compose: $count instead of 5 worker-backend" >&2; return 1; }
  say "scaled: 5 worker-backend"
}

# Commands for people, in a container of their own that can write the directory $work/out.
person() {
  stack run --rm -T --no-deps --user 65532:65532 -v "$work/out:/out" cli "$@"
}

job_run() {
  local example=$1 began seconds job count
  mkdir -p "$work/out" && chown 65532:65532 "$work/out"
  began=$(date +%s%N)
  job=$(person submit "/examples/$example/proposal.md" --budget 5 --yes --json 2> "$work/submit.log" | python3 -c 'import json, sys; print(json.load(sys.stdin)["job"])') \
    || { cat "$work/submit.log" >&2; return 1; }
  person watch "$job" > "$work/watch.log" 2>&1 || { tail -20 "$work/watch.log" >&2; stack logs --tail 10 coordinator >&2; return 1; }
  seconds=$(awk -v a="$began" -v b="$(date +%s%N)" 'BEGIN { printf "%.1f", (b - a) / 1e9 }')
  person fetch "$job" --out "/out/$example" > "$work/fetch.log" 2>&1 || { cat "$work/fetch.log" >&2; return 1; }
  person budget show "$job" | sed 's/^/            /' || true
  python3 "$root/deploy/try/compare.py" "$root/examples/$example/replay.jsonl" "$work/out/$example" > "$work/compare.log" \
    || { cat "$work/compare.log" >&2; return 1; }
  count=$(cat "$work/compare.log")
  say "job: $job done in $seconds s, submission and start of three containers included; $count"
}

stack_figures() {
  say "memory:"
  docker stats --no-stream --format '{{.MemUsage}} {{.Name}}' | sed 's# / [^ ]*##' | sort -k2 | sed 's/^/            /'
}

stack_down() {
  local began
  began=$(date +%s%N)
  stack down -v --remove-orphans --timeout 30 > "$work/down.log" 2>&1 || { tail -5 "$work/down.log" >&2; return 1; }
  say "down after $(awk -v a="$began" -v b="$(date +%s%N)" 'BEGIN { printf "%.1f", (b - a) / 1e9 }') s"
}
