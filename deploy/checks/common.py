"""What the checks share: the tree they look at, tools, and how a fault is told.

A check is a function that yields faults, one sentence each; a check that yields nothing has passed. Checks read a copy of the
tree and never write to the repository. Each also takes part in the self-test, where it has to find a seeded mistake.
"""
from __future__ import annotations

import hashlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import yaml

# What is copied for a check; nothing else may matter to it. Of the sources, those that names and settings stand in.
PARTS = [".dockerignore", ".env.example", "README.md", "docker-compose.yml", "bin", "config", "deploy", "docs", "k8s",
         "src/backend/nats/names.rs", "src/cli", "src/config", "src/fleet/providers.rs", "src/metric.rs", "src/protocol/envelope.rs"]

_SECRETS_HOME = tempfile.TemporaryDirectory(prefix="codeswarm-check-secrets-")
_SECRETS_LOCK = threading.Lock()

CHECKS: dict[str, Callable[["Tree"], Iterator[str]]] = {}


def check(function: Callable[["Tree"], Iterator[str]]):
    """Registers a check under the name of its function."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


@dataclass
class Tree:
    """A copy of the repository's deployment parts."""

    root: pathlib.Path
    tools: pathlib.Path
    scratch: pathlib.Path = field(init=False)

    def __post_init__(self) -> None:
        self.scratch = self.root / ".scratch"
        self.scratch.mkdir(exist_ok=True)

    @staticmethod
    def copy(source: pathlib.Path, tools: pathlib.Path) -> "Tree":
        root = pathlib.Path(tempfile.mkdtemp(prefix="codeswarm-check-"))
        for part in PARTS:
            origin = source / part
            if origin.is_dir():
                shutil.copytree(origin, root / part, ignore=shutil.ignore_patterns("__pycache__", "secrets", "target"))
            elif origin.exists():
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(origin, root / part)
        return Tree(root, tools)

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def yaml(self, path: str):
        return yaml.safe_load(self.text(path))

    def toml(self, path: str) -> dict:
        return tomllib.loads(self.text(path))

    def run(self, *command: str | pathlib.Path, cwd: str = ".", env: dict[str, str] | None = None,
            timeout: int = 60) -> subprocess.CompletedProcess[str]:
        """Runs a tool of the cache, or of the machine, and answers what it said; never raises for its exit code."""
        tool = self.tools / "bin" / str(command[0])
        first = str(tool) if tool.exists() else str(command[0])
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run([first, *map(str, command[1:])], cwd=self.root / cwd, text=True, timeout=timeout,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                              env={"PATH": path, "HOME": str(self.scratch), "LC_ALL": "C.UTF-8", **(env or {})})

    def said(self, tool: str, done: subprocess.CompletedProcess[str], lines: int = 12) -> Iterator[str]:
        """The tool's own words as a fault, when it failed."""
        if done.returncode != 0:
            text = done.stdout.replace(str(self.root) + "/", "").strip() or "no output"
            yield f"{tool}: " + "\n    ".join(text.splitlines()[:lines])

    @cached_property
    def workers(self) -> list[str]:
        """Agent types that have a program of their own."""
        return sorted(path.stem.removeprefix("codeswarm-worker-") for path in (self.root / "bin").glob("codeswarm-worker-*.rs"))

    @cached_property
    def priorities(self) -> list[str]:
        body = re.search(r"impl Priority \{.*?fn as_str.*?\{(.*?)\n    \}", self.text("src/protocol/envelope.rs"), re.DOTALL)
        return re.findall(r'=> "([a-z]+)"', body.group(1))

    @cached_property
    def defaults(self) -> dict:
        return self.toml("config/default.toml")

    @cached_property
    def namespace(self) -> str:
        """The namespace that everything deployed uses."""
        production = self.toml("config/production.toml")
        return production.get("storage", {}).get("namespace", self.defaults["storage"]["namespace"])

    @cached_property
    def http_port(self) -> int:
        return int(self.toml("config/production.toml")["http"]["listen"].rpartition(":")[2])

    @property
    def secrets(self) -> pathlib.Path:
        """Passwords as a person would make them; the same for all trees that make them in the same way."""
        recipe = self.text("deploy/make-secrets") + self.text("deploy/redis/users.acl")
        with _SECRETS_LOCK:
            directory = pathlib.Path(_SECRETS_HOME.name) / hashlib.sha256(recipe.encode()).hexdigest()
            if not (directory / "redis-exporter.json").exists():
                self.run(self.root / "deploy/make-secrets", directory).check_returncode()
        return directory

    @cached_property
    def compose(self) -> dict:
        """docker-compose.yml with all profiles and the example's variables, as docker compose understands it."""
        done = self.run("docker-compose", "--env-file", ".env.example", "--profile", "*", "config", "--format", "json")
        done.check_returncode()
        return json.loads(done.stdout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
