"""The configurations of NATS and Redis: the servers themselves read them, and then show who may do what."""
from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Iterator

from common import Tree, check, free_port
from wire import Nats, Redis, Server

CONTAINER_REDIS = "/usr/local/etc/redis"


def nats_configuration(tree: Tree, name: str, cluster: str = "deploy/nats/cluster.conf",
                       port: int = 4222) -> tuple[pathlib.Path, dict[str, str]]:
    """The configuration as a container sees it, on a port and a directory of our own."""
    directory = tree.scratch / name
    (directory / "secrets").mkdir(parents=True)
    text = tree.text("deploy/nats/nats.conf")
    for old, new in (('"0.0.0.0:4222"', f'"127.0.0.1:{port}"'), ('"0.0.0.0:8222"', '"127.0.0.1:-1"'),
                     ('"/data"', f'"{directory}/data"'), ('"/tmp/nats.pid"', f'"{directory}/pid"')):
        if old not in text:
            raise ValueError(f"deploy/nats/nats.conf does not hold {old}")
        text = text.replace(old, new)
    (directory / "nats.conf").write_text(text)
    shutil.copy(tree.root / cluster, directory / "cluster.conf")
    shutil.copy(tree.secrets / "nats-passwords.conf", directory / "secrets/passwords.conf")
    shutil.copy(tree.secrets / "nats-routes.conf", directory / "secrets/routes.conf")
    return directory / "nats.conf", {"NATS_SERVER_NAME": "nats-0"}


def nats_server(tree: Tree, name: str) -> Server:
    port = free_port()
    file, env = nats_configuration(tree, name, port=port)
    return Server([str(tree.tools / "bin/nats-server"), "-c", str(file)], port, file.parent / "log", env)


def redis_server(tree: Tree, name: str) -> Server:
    """A server with the shipped configuration; the machine's own program."""
    port, directory = free_port(), tree.scratch / name
    (directory / "data").mkdir(parents=True)
    text = tree.text("deploy/redis/redis.conf").replace(CONTAINER_REDIS, str(directory))
    text = re.sub(r"^port \d+$", f"port {port}", text, flags=re.MULTILINE)
    text = re.sub(r"^dir .*$", f"dir {directory}/data", text, flags=re.MULTILINE)
    text = re.sub(r"^bind .*$", "bind 127.0.0.1", text, flags=re.MULTILINE)
    (directory / "secrets").mkdir()
    shutil.copy(tree.secrets / "redis-users.acl", directory / "secrets/users.acl")
    (directory / "redis.conf").write_text(text)
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("redis-server is not on this machine: apt-get install redis-server")
    return Server([program, str(directory / "redis.conf")], port, directory / "log", {})


def password(tree: Tree, name: str) -> str:
    return (tree.secrets / name).read_text()


@check
def nats_config(tree: Tree) -> Iterator[str]:
    """nats-server -t, for one server and for a cluster; durable, with nobody let in without a password."""
    for cluster in ("deploy/nats/cluster.conf", "k8s/components/production/cluster.conf"):
        file, env = nats_configuration(tree, "nats-" + cluster.split("/")[0], cluster)
        yield from tree.said(f"nats-server -t ({cluster})", tree.run("nats-server", "-t", "-c", file, env=env))
    if not re.search(r"^\s*sync_interval: always$", tree.text("deploy/nats/nats.conf"), re.MULTILINE):
        yield "deploy/nats/nats.conf: without sync_interval: always, loss of power takes acknowledged messages with it"


@check
def nats_users(tree: Tree) -> Iterator[str]:
    """A live NATS server with the shipped configuration: each user can do its work and nothing else."""
    with nats_server(tree, "nats-users") as server:
        for user, secret in (("coordinator", "wrong"), ("", "")):
            try:
                Nats(server.port, user, secret).close()
                yield f"NATS lets {user or 'anybody'} in without the password"
            except PermissionError:
                pass
        clients = {user: Nats(server.port, user, password(tree, f"nats-{user}")) for user in ("coordinator", "worker", "cli", "monitor")}
        yield from _streams(clients["coordinator"], tree.namespace)
        for user, may, verb, subject in _rights(tree.namespace):
            client = clients[user]
            if (client.may_publish if verb == "publish" else client.may_subscribe)(subject) != may:
                yield f"deploy/nats/nats.conf: {user} {'may not' if may else 'may'} {verb} {subject}"
        for client in clients.values():
            client.close()


def _streams(coordinator: Nats, namespace: str) -> Iterator[str]:
    """What the coordinator does first: makes a stream and a consumer, publishes, takes, acknowledges."""
    stream = f"{namespace.upper()}_RESULTS"
    config = {"name": stream, "subjects": [f"{namespace}.result.*"], "retention": "workqueue", "storage": "file"}
    made = coordinator.request(f"$JS.API.STREAM.CREATE.{stream}", config)
    if "error" in made:
        yield f"deploy/nats/nats.conf: the coordinator cannot make {stream}: {made['error']}"
        return
    subject = f"{namespace}.result.0"
    consumer = {"stream_name": stream, "config": {"durable_name": "result-0", "filter_subject": subject, "ack_policy": "explicit"}}
    for what, answer in (
        ("make a consumer", coordinator.request(f"$JS.API.CONSUMER.CREATE.{stream}.result-0.{subject}", consumer)),
        ("publish a result", coordinator.request(subject, b"{}")),
        ("look at its queue", coordinator.request(f"$JS.API.CONSUMER.INFO.{stream}.result-0", b"")),
    ):
        if "error" in answer:
            yield f"deploy/nats/nats.conf: the coordinator cannot {what}: {answer['error']}"


def _rights(namespace: str) -> Iterator[tuple[str, bool, str, str]]:
    """Who may (not) do what, beyond what the streams need."""
    upper = namespace.upper()
    everybody = ("coordinator", "worker", "cli")
    for user in everybody:
        yield user, True, "publish", f"{namespace}.signal"
        yield user, True, "subscribe", f"{namespace}.signal"
        yield user, True, "subscribe", "_INBOX.x.>"
        yield user, True, "subscribe", "$SRV.PING"
        yield user, True, "publish", f"$O.{upper}_ARTIFACTS.C.x"
        yield user, True, "publish", f"$JS.API.CONSUMER.CREATE.OBJ_{upper}_ARTIFACTS"
        yield user, True, "publish", f"$JS.API.CONSUMER.MSG.NEXT.OBJ_{upper}_ARTIFACTS.x"
        yield user, user != "worker", "publish", f"$JS.API.CONSUMER.CREATE.{upper}_EVENTS"
        yield user, True, "publish", f"{namespace}.task.backend.high"
        for stream in ("TASKS", "EVENTS", "DLQ"):
            yield user, False, "publish", f"$JS.API.STREAM.DELETE.{upper}_{stream}"
            yield user, False, "publish", f"$JS.API.STREAM.PURGE.{upper}_{stream}"
            yield user, user == "coordinator", "publish", f"$JS.API.STREAM.UPDATE.{upper}_{stream}"
            yield user, True, "publish", f"$JS.API.STREAM.CREATE.{upper}_{stream}"
        yield user, False, "publish", f"$JS.API.CONSUMER.DELETE.{upper}_TASKS.backend-high"
        yield user, False, "publish", "$JS.API.STREAM.CREATE.OTHER"
        yield user, False, "publish", "other.task.backend.high"
        yield user, False, "subscribe", ">"
        yield user, False, "subscribe", f"{namespace}.task.>"
        yield user, False, "publish", "$SYS.REQ.SERVER.PING"
        yield user, user != "worker", "subscribe", f"{namespace}.event.j"
        yield user, user != "worker", "publish", f"{namespace}.event.j"
        yield user, user == "worker", "publish", f"$JS.API.CONSUMER.MSG.NEXT.{upper}_TASKS.backend-high"
        yield user, user == "worker", "publish", f"$JS.ACK.{upper}_TASKS.backend-high.1.1.1.1.0"
        yield user, user == "worker", "publish", f"$JS.ACK.hub.ABC.{upper}_TASKS.backend-high.1.1.1.1.0"
        yield user, user == "coordinator", "publish", f"$JS.API.CONSUMER.MSG.NEXT.{upper}_COMMANDS.command-0"
        yield user, user == "coordinator", "publish", f"$JS.ACK.{upper}_RESULTS.result-0.1.1.1.1.0"
        yield user, user == "cli", "publish", f"$JS.API.STREAM.MSG.DELETE.{upper}_DLQ"
    yield "monitor", True, "publish", "$SYS.REQ.SERVER.PING"


@check
def redis_config(tree: Tree) -> Iterator[str]:
    """A live Redis server with the shipped configuration: durable, nothing evicted, each user within its keys."""
    with redis_server(tree, "redis") as server:
        try:
            Redis(server.port, "default", "").close()
            yield "Redis lets the default user in"
        except PermissionError:
            pass
        clients = {user: Redis(server.port, user, password(tree, f"redis-{user}"))
                   for user in ("coordinator", "worker", "cli", "monitor", "backup")}
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        for key, value in wanted.items():
            found = clients["coordinator"].ask("CONFIG", "GET", key)
            if found != [key, value]:
                yield f"deploy/redis/redis.conf: {key} is {found[1:] if isinstance(found, list) else found}, not {value}"
        for user, may, command in _commands(tree.namespace):
            answer = clients[user].ask(*command)
            if str(answer).startswith("-NOPERM") == may:
                yield f"deploy/redis/users.acl: {user} {'may not' if may else 'may'} {' '.join(command)}"
        for client in clients.values():
            client.close()


def _commands(namespace: str) -> Iterator[tuple[str, bool, list[str]]]:
    key = f"{namespace}:{{budget}}:x"
    for user in ("coordinator", "worker", "cli"):
        for command in (["HSET", key, "a", "1"], ["ZADD", key + "z", "1", "a"], ["XADD", key + "s", "*", "a", "1"], ["TIME"], ["INFO"],
                        ["EVAL", "redis.call('HGETALL', KEYS[1]) return redis.call('PUBLISH', ARGV[1], 'x')", "1", key, f"{namespace}:x"],
                        ["SCRIPT", "LOAD", "return 1"], ["CLIENT", "SETNAME", "x"], ["CONFIG", "GET", "append*"],
                        ["SUBSCRIBE", f"{namespace}:{{state}}:x"], ["UNSUBSCRIBE"]):
            yield user, True, command
        for command in (["SET", "other", "1"], ["GET", "other"], ["FLUSHALL"], ["FLUSHDB"], ["KEYS", "*"], ["CONFIG", "SET", "appendonly", "no"],
                        ["EVAL", "return redis.call('GET', KEYS[1])", "1", "other"], ["PUBLISH", "other", "x"],
                        ["SHUTDOWN", "NOSAVE"], ["ACL", "LIST"], ["SCRIPT", "FLUSH"], ["REPLICAOF", "NO", "ONE"], ["CLIENT", "LIST"],
                        ["BGREWRITEAOF"], ["MODULE", "LIST"], ["FUNCTION", "FLUSH"]):
            yield user, False, command
    for command in (["PING"], ["INFO"], ["CONFIG", "GET", "*"], ["SLOWLOG", "LEN"]):
        yield "monitor", True, command
    for command in (["GET", key], ["HGETALL", key], ["EVAL", "return 1", "0"], ["CONFIG", "SET", "save", ""], ["BGSAVE"]):
        yield "monitor", False, command
    for command in (["LASTSAVE"], ["BGSAVE"]):
        yield "backup", True, command
    for command in (["GET", key], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["SAVE"]):
        yield "backup", False, command
