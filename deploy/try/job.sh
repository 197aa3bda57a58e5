# shellcheck shell=bash
# What try-compose does with the stack: start it, look at it from outside, run a job, count.
: "${work:?}" "${root:?}" "${tools:?}" "${example:?}"

# Runs a command in the repository with the demonstration's settings, secrets made for this run, and the images made for it.
in_stack() {
  (
    cd "$root" || exit
    set -a
    # shellcheck source=deploy/demo.env
    source deploy/demo.env
    set +a
    export SECRETS_DIR=$work/secrets ANTHROPIC_API_KEY_FILE=$work/secrets/anthropic-api-key DEMO_EXAMPLE=$example
    export CODESWARM_BUDGET_ACCOUNT_LIMIT_USD=50
    export CODESWARM_IMAGE=codeswarm:local NATS_IMAGE=codeswarm-servers:debian REDIS_IMAGE=codeswarm-servers:debian
    export PROMETHEUS_IMAGE=codeswarm-prometheus:debian REDIS_EXPORTER_IMAGE=codeswarm-redis-exporter:debian
    "$@"
  )
}

stack() { in_stack docker compose "$@"; }

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

mapfile -t workers < <(cd "$root/bin" && printf '%s\n' codeswarm-worker-*.rs | sed 's/^codeswarm-//; s/\.rs$//')

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

# The same, as a container that can be waited for.
person_in_background() { stack run -d -T --no-deps cli "$@" 2>/dev/null; }

seconds_since() { awk -v a="$1" -v b="$(date +%s%N)" 'BEGIN { printf "%.1f", (b - a) / 1e9 }'; }

job_run() {
  local example=$1 began seconds
  mkdir -p "$work/out" && chown 65532:65532 "$work/out"
  began=$(date +%s%N)
  job=$(person submit "/examples/$example/proposal.md" --budget 5 --yes --json 2> "$work/submit.log" | python3 -c 'import json, sys; print(json.load(sys.stdin)["job"])') \
    || { cat "$work/submit.log" >&2; return 1; }
  timeout 300 docker wait "$(person_in_background watch "$job")" > "$work/watch.code" || { echo "try-compose: the job has not ended after 300 s" >&2; return 1; }
  seconds=$(seconds_since "$began")
  person status "$job" > "$work/status.log" 2>&1 || true
  [ "$(cat "$work/watch.code")" = 0 ] || { tail -30 "$work/status.log" >&2; stack logs --tail 20 coordinator >&2; return 1; }
  job_fetch "$example" || return 1
  say "job: $job is complete after $seconds s, the start of two command containers included; $(cat "$work/compare.log")"
  person budget show "$job" 2>/dev/null | sed -n '1,2s/^/            /p'
}

# The files of the job, compared with the recording.
job_fetch() {
  rm -rf "$work/out/$1"
  person fetch "$job" --out "/out/$1" > "$work/fetch.log" 2>&1 || { cat "$work/fetch.log" >&2; return 1; }
  python3 "$root/deploy/try/compare.py" "$root/examples/$1/replay.jsonl" "$work/out/$1" > "$work/compare.log" 2>&1 \
    || { cat "$work/compare.log" >&2; return 1; }
}

# What else people type: each command has to be permitted, and to answer.
job_commands() {
  local command
  for command in list "status $job" "events $job" agents "dlq list" "budget show" "budget entries" "budget freeze" "budget thaw" \
    "fetch $job --out /out/$1.tar" "fetch $job --out /out/$1.bundle" doctor; do
    # shellcheck disable=SC2086
    person $command > "$work/command.log" 2>&1 || { echo "try-compose: codeswarm $command:" >&2; tail -15 "$work/command.log" >&2; return 1; }
  done
  say "commands: all answer"
}

# One coordinator leads, and what a process tells is what promtool can read.
stack_metrics() {
  local service id ip leaders=0
  for service in coordinator worker-backend; do
    for id in $(stack ps -q "$service"); do
      ip=$(docker inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{if eq $name "codeswarm-demo_stores"}}{{$net.IPAddress}}{{end}}{{end}}' "$id")
      inside_engine curl -sf --max-time 5 "http://$ip:8080/metrics" > "$work/metrics" || { echo "try-compose: no metrics of $service" >&2; return 1; }
      # 3 is what promtool says about style, which spoils nothing here.
      "$tools/bin/promtool" check metrics < "$work/metrics" > "$work/metrics.log" 2>&1 || [ $? = 3 ] || { head -5 "$work/metrics.log" >&2; return 1; }
      sort "$work/metrics.log" >> "$work/metrics.style"
      # Workers do not have it.
      leaders=$((leaders + $(awk '$1 == "codeswarm_leader" { sum += $2 } END { print sum + 0 }' "$work/metrics")))
    done
  done
  [ "$leaders" = 1 ] || { echo "try-compose: $leaders processes lead" >&2; return 1; }
  say "metrics: read from every coordinator and backend worker, one leads; style: $(sort -u "$work/metrics.style" | paste -sd';' | sed 's/^$/no fault/')"
}

# Backup, loss of both disks, restore: the job and its files are there again.
job_outlives_disks() {
  local began saved
  began=$(date +%s%N)
  in_stack "$root/deploy/backup/backup.sh" compose "$work/backup.tar" > "$work/backup.log" 2>&1 || { cat "$work/backup.log" >&2; return 1; }
  saved=$(seconds_since "$began")
  stack down -v --timeout 60 > "$work/down.log" 2>&1
  began=$(date +%s%N)
  stack up -d --wait --no-build --pull never nats redis > "$work/up.log" 2>&1 || { tail -5 "$work/up.log" >&2; return 1; }
  in_stack "$root/deploy/backup/restore.sh" compose "$work/backup.tar" --yes > "$work/restore.log" 2>&1 || { cat "$work/restore.log" >&2; return 1; }
  stack up -d --wait --wait-timeout 120 --no-build --pull never > "$work/up.log" 2>&1 || { tail -5 "$work/up.log" >&2; stack logs --tail 10 >&2; return 1; }
  job_fetch "$1" || return 1
  say "restored: backup $saved s ($(stat -c %s "$work/backup.tar") bytes, $(grep -o 'away for .* s' "$work/backup.log")), volumes removed, job and files back after $(seconds_since "$began") s"
}

# Nobody was refused anything: what nats.conf and users.acl allow is enough for the work that was done.
stack_permitted() {
  local refused
  refused=$(stack logs --no-log-prefix nats coordinator "${workers[@]}" 2>/dev/null | grep -E -i 'violation|NOPERM' | sort | uniq -c | head -5 || true)
  [ -z "$refused" ] || { echo "try-compose: refused: $refused" >&2; return 1; }
  say "permitted: no program was refused anything"
}

stack_figures() {
  say "memory:"
  docker stats --no-stream --format '{{.MemUsage}} {{.Name}}' | sed 's# / [^ ]*##' | sort -k2 | sed 's/^/            /'
}

stack_down() {
  local began
  began=$(date +%s%N)
  stack down -v --remove-orphans --timeout 30 > "$work/down.log" 2>&1 || { tail -5 "$work/down.log" >&2; return 1; }
  say "down after $(seconds_since "$began") s"
}
