# shellcheck shell=bash
# What try-compose does with the profile observability: Prometheus and the exporter of Redis from Debian's packages, which
# scrape the stack and answer every question of the dashboard. Grafana and the exporter of NATS are in no Debian release, so
# they are not started, and what only they would show is not asked for.
: "${work:?}" "${tools:?}" "${root:?}" "${workers[0]:?}"

image_monitoring() {
  local unpacked=$tools/monitoring context=$work/monitoring
  if [ ! -x "$unpacked/usr/bin/prometheus-redis-exporter" ]; then
    rm -rf "$unpacked"
    "$root/deploy/checks/fetch-debian" "$unpacked" trixie prometheus prometheus-redis-exporter
  fi
  mkdir -p "$context"
  cp "$unpacked"/usr/bin/{prometheus,prometheus-redis-exporter} "$tools/bin/promtool" "$context/"
  # A new volume takes over the owner of the directory it is mounted on.
  printf '%s\n' 'FROM codeswarm-base:debian' 'COPY prometheus promtool /bin/' 'RUN mkdir /prometheus && chown 65534 /prometheus' \
    'ENTRYPOINT ["/bin/prometheus"]' > "$context/Dockerfile"
  docker build -q -t codeswarm-prometheus:debian "$context" > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; return 1; }
  printf '%s\n' 'FROM codeswarm-base:debian' 'COPY prometheus-redis-exporter /bin/redis_exporter' \
    'ENTRYPOINT ["/bin/redis_exporter"]' > "$context/Dockerfile"
  docker build -q -t codeswarm-redis-exporter:debian "$context" > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; return 1; }
}

# Prometheus finds every process, its rules work, and the dashboard has something to show.
stack_observed() {
  local ip processes
  stack up -d --wait --wait-timeout 60 --no-build --pull never --no-deps prometheus redis-exporter > "$work/up.log" 2>&1 \
    || { tail -5 "$work/up.log" >&2; stack logs --tail 15 prometheus redis-exporter >&2; return 1; }
  ip=$(docker inspect -f '{{range $name, $net := .NetworkSettings.Networks}}{{if eq $name "codeswarm-demo_stores"}}{{$net.IPAddress}}{{end}}{{end}}' "$(stack ps -q prometheus)")
  processes=$(stack ps -q coordinator "${workers[@]}" | wc -l)
  # Rates need two values, so another job is run once everything has been seen.
  dashboard "http://$ip:9090" "$processes" && job_run "$1" && dashboard "http://$ip:9090" "$processes" "$root/deploy/grafana/dashboards/codeswarm.json"
  say "observed: $(paste -sd' ' "$work/observed.log")"
}

dashboard() { inside_engine python3 "$root/deploy/try/dashboard.py" "$@" > "$work/observed.log" 2>&1 || { cat "$work/observed.log" >&2; return 1; }; }
