"""deploy/backup: a round trip with real servers; what was stored before the backup is there after the restore."""
from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Iterator

import wire
from common import Tree, check
from servers import nats_server, password, redis_server

# Stands in for systemctl: `control stop|start NAME`, where the servers are those of the check.
CONTROL = """
import os, pathlib, signal, subprocess, sys, time
verb, name = sys.argv[1:]
home = pathlib.Path({home!r}) / name
command, port = (home / "command").read_text().split("\\0"), int((home / "port").read_text())
pid = home / "running"
if verb == "stop":
    os.kill(int(pid.read_text()), signal.SIGTERM)
    for _ in range(400):
        if not pathlib.Path(f"/proc/{{pid.read_text()}}/stat").exists() or ") Z" in pathlib.Path(f"/proc/{{pid.read_text()}}/stat").read_text():
            break
        time.sleep(0.025)
else:
    started = subprocess.Popen(command, stdout=(home / "log").open("a"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    pid.write_text(str(started.pid))
"""


@check
def backup_round_trip(tree: Tree) -> Iterator[str]:
    """backup.sh on live servers, everything lost, restore.sh: messages, keys and money are back."""
    nats, redis = nats_server(tree, "backup-nats"), redis_server(tree, "backup-redis")
    servers = {"nats": nats, "redis": redis}
    home = tree.scratch / "control"
    try:
        for name, server in servers.items():
            server.wait()
            (home / name).mkdir(parents=True)
            (home / name / "command").write_text("\0".join(map(str, server.process.args)))
            (home / name / "port").write_text(str(server.port))
            (home / name / "running").write_text(str(server.process.pid))
        control = tree.scratch / "control.py"
        control.write_text(CONTROL.format(home=str(home)))
        run = f"NATS_SERVER_NAME=nats-0 {sys.executable} {control}"
        environment = {
            "NATS_DIR": str(tree.scratch / "backup-nats/data"), "REDIS_DIR": str(tree.scratch / "backup-redis/data"),
            "NATS_STOP": f"{run} stop nats", "NATS_START": f"{run} start nats",
            "REDIS_STOP": f"{run} stop redis", "REDIS_START": f"{run} start redis",
            "REDIS_CLI": f"redis-cli -e --no-auth-warning -p {redis.port} --user backup --pass {password(tree, 'redis-backup')}",
        }
        yield from _round_trip(tree, nats.port, redis.port, environment)
    finally:
        for name, server in servers.items():
            running = home / name / "running"
            if running.exists() and running.read_text() != str(server.process.pid):
                tree.run("kill", "-KILL", running.read_text())
            server.stop()


def _round_trip(tree: Tree, nats_port: int, redis_port: int, environment: dict[str, str]) -> Iterator[str]:
    subject, stream = f"{tree.namespace}.event.j-1", f"{tree.namespace.upper()}_EVENTS"
    key = f"{tree.namespace}:{{budget}}:spent"
    client = wire.Nats(nats_port, "coordinator", password(tree, "nats-coordinator"))
    client.request(f"$JS.API.STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{tree.namespace}.event.>"], "storage": "file"})
    client.request(subject, b'{"before": true}')
    client.close()
    store = wire.Redis(redis_port, "coordinator", password(tree, "redis-coordinator"))
    store.ask("SET", key, "1250000")
    store.close()

    file = tree.scratch / "backup.tar"
    done = tree.run(tree.root / "deploy/backup/backup.sh", "local", file, env=environment)
    yield from tree.said("backup.sh", done)
    if done.returncode != 0:
        return

    _wait(nats_port, redis_port)
    client = wire.Nats(nats_port, "coordinator", password(tree, "nats-coordinator"))
    client.request(subject, b'{"after": true}')
    client.close()
    store = wire.Redis(redis_port, "coordinator", password(tree, "redis-coordinator"))
    store.ask("SET", key, "9")
    store.close()
    shutil.copy(file, tree.scratch / "broken.tar")
    with (tree.scratch / "broken.tar").open("r+b") as broken:
        place = broken.read().index(b'{"before": true}')
        broken.seek(place + 2)
        broken.write(b"B")
    if tree.run(tree.root / "deploy/backup/restore.sh", "local", tree.scratch / "broken.tar", "--yes", env=environment).returncode == 0:
        yield "restore.sh puts back a backup that is damaged"

    done = tree.run(tree.root / "deploy/backup/restore.sh", "local", file, "--yes", env=environment)
    yield from tree.said("restore.sh", done)
    _wait(nats_port, redis_port)
    client = wire.Nats(nats_port, "coordinator", password(tree, "nats-coordinator"))
    found = client.request(f"$JS.API.STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    client.close()
    if base64.b64decode(found.get("message", {}).get("data", "")) != b'{"before": true}':
        yield f"after the restore, the newest event is not the one of the backup: {found}"
    store = wire.Redis(redis_port, "coordinator", password(tree, "redis-coordinator"))
    if (spent := store.ask("GET", key)) != "1250000":
        yield f"after the restore, the ledger says {spent}"
    if store.ask("CONFIG", "GET", "appendonly")[1:] != ["yes"]:
        yield "after the restore, Redis keeps no log"
    store.close()


def _wait(*ports: int) -> None:
    for port in ports:
        server = object.__new__(wire.Server)
        server.port, server.process = port, type("Running", (), {"poll": staticmethod(lambda: None)})
        server.log = None
        server.wait()
