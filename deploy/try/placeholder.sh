#!/bin/sh
# Stands in for a program of CodeSwarm in `deploy/try-compose --placeholders`: proves that its container can read its
# secrets, write only where it may, and log in to both servers; then answers health checks on the port of http.listen. It must never claim more than that.
set -eu
case "${1:-}" in
  --version) echo placeholder; exit 0 ;;
  healthcheck) exec busybox wget -q -O /dev/null http://127.0.0.1:8080/healthz ;;
esac

if touch /usr/local/bin/x 2>/dev/null; then echo "the root file system can be written" >&2; exit 1; fi
[ "$(id -u)" = 65532 ] || { echo "runs as $(id -u)" >&2; exit 1; }

if [ -n "${CODESWARM_REDIS_PASSWORD_FILE:-}" ]; then
  REDISCLI_AUTH=$(cat "$CODESWARM_REDIS_PASSWORD_FILE")
  export REDISCLI_AUTH
  redis-cli -e -h redis --no-auth-warning --user "$CODESWARM_REDIS_USER" set "codeswarm:placeholder:$(hostname)" 1 >/dev/null

  # The NATS protocol by hand: the server answers PONG only to users it knows.
  password=$(cat "$CODESWARM_NATS_PASSWORD_FILE")
  printf 'CONNECT {"verbose":false,"user":"%s","pass":"%s"}\r\nPING\r\n' "$CODESWARM_NATS_USER" "$password" > /tmp/hello
  (cat /tmp/hello; sleep 1) | busybox nc nats 4222 | grep -q PONG || { echo "NATS refuses $CODESWARM_NATS_USER" >&2; exit 1; }
  echo "placeholder for $0: both servers accept $CODESWARM_NATS_USER"
fi
[ -z "${ANTHROPIC_API_KEY_FILE:-}" ] || [ -s "$ANTHROPIC_API_KEY_FILE" ]
mkdir -p /tmp/www
echo ok > /tmp/www/healthz
case $0 in */fake-claude) port=8787 ;; *) port=8080 ;; esac
busybox httpd -f -p "$port" -h /tmp/www &
server=$!
# The first process of a container is not ended by a signal it does not handle.
trap 'kill "$server"' TERM INT
wait "$server" || true
