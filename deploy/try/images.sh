# shellcheck shell=bash
# The images of try-compose, made from Debian's packages and the programs built here. They stand in for those that
# .env.example names and keep to what docker-compose.yml relies on: nats-server, wget, redis-server and redis-cli on the path,
# and a shell.
: "${work:?}" "${tools:?}" "${root:?}"

image_base() {
  local rootfs=$tools/rootfs-bookworm mirror
  if [ ! -e "$rootfs/etc/codeswarm-complete" ]; then
    mirror=$(awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
    rm -rf "$rootfs"
    debootstrap --variant=minbase --include=ca-certificates,git,redis-server,busybox-static \
      bookworm "$rootfs" ${mirror:+"$mirror"} > "$work/debootstrap.log" 2>&1 \
      || { tail -5 "$work/debootstrap.log" >&2; return 1; }
    rm -rf "$rootfs"/var/cache/apt/archives/*.deb "$rootfs"/var/lib/apt/lists/*
    touch "$rootfs/etc/codeswarm-complete"
  fi
  tar -C "$rootfs" -c . | docker import - codeswarm-base:debian > /dev/null
}

image_servers() {
  local context=$work/servers
  mkdir -p "$context"
  cp "$tools/bin/nats-server" "$context/"
  printf '%s\n' 'FROM codeswarm-base:debian' 'COPY nats-server /usr/local/bin/' \
    'RUN ln -s /bin/busybox /usr/local/bin/wget' > "$context/Dockerfile"
  docker build -q -t codeswarm-servers:debian "$context" > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; return 1; }
  say "servers: $(docker run --rm --network none codeswarm-servers:debian sh -c 'nats-server --version; redis-server --version' | sed 's/ sha=.*//' | paste -sd' ')"
}

# The image from deploy/Dockerfile, target prebuilt, with the programs in $work/stage/programs.
image_build() {
  cp -r "$root/config" "$root/examples" "$work/stage/"
  docker build -q -f "$root/deploy/Dockerfile" --target prebuilt --build-arg RUNTIME_IMAGE=codeswarm-base:debian \
    --build-arg REVISION="$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)" \
    -t codeswarm:local "$work/stage" > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; return 1; }
  rm -rf "$work/stage"
}

image_programs() {
  local from=$1 program name
  if [ -z "$from" ]; then
    from=$root/target/release
    if [ ! -x "$from/codeswarm" ] || [ "$root/target/debug/codeswarm" -nt "$from/codeswarm" ]; then from=$root/target/debug; fi
  fi
  mkdir -p "$work/stage/programs"
  for program in "$root"/bin/*.rs; do
    name=$(basename "$program" .rs)
    [ -x "$from/$name" ] || { echo "try-compose: $from/$name is missing: run cargo build --release --bins" >&2; return 1; }
    # Symbols are of no use in a container that nobody debugs in.
    strip -o "$work/stage/programs/$name" "$from/$name" 2>/dev/null || cp "$from/$name" "$work/stage/programs/$name"
  done
  say "programs: $from, $(du -sh "$work/stage/programs" | cut -f1) stripped"
  image_build
}

# Programs that log in everywhere as their container is told to, then only report health.
image_placeholders() {
  local program
  mkdir -p "$work/stage/programs"
  for program in "$root"/bin/*.rs; do
    cp "$root/deploy/try/placeholder.sh" "$work/stage/programs/$(basename "$program" .rs)"
  done
  chmod 0755 "$work"/stage/programs/*
  image_build
}
