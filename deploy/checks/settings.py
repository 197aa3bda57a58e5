"""Settings: that every one that is named anywhere exists, and that the shipped configuration files hold no other."""
from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

from common import Tree, check
from names import streams

# Variables of docker compose, not of the programs.
COMPOSE_ONLY = {"CODESWARM_IMAGE"}
TOKEN = re.compile(r"\b(?:CODESWARM_[A-Z][A-Z_]*|ANTHROPIC_[A-Z_]+|OPENAI_[A-Z_]+|NATS_URL|REDIS_URL)\b")


def known(tree: Tree) -> set[str]:
    """Every variable that the programs read."""
    variables = {f"CODESWARM_{section}_{key}".upper() for section, table in tree.defaults.items() for key in table}
    for file in ("src/config/loader.rs", "src/config/secret.rs", "src/fleet/providers.rs"):
        variables |= set(re.findall(r'"([A-Z][A-Z_]+_[A-Z_]+)"', tree.text(file)))
    for path in (tree.root / "src/cli").rglob("*.rs"):
        variables |= set(re.findall(r'env = "([A-Z_]+)"', path.read_text(encoding="utf-8")))
    return variables


@check
def settings_files(tree: Tree) -> Iterator[str]:
    """config/*.toml hold known keys with values of the right type, and differ from the defaults."""
    for name in ("development", "production"):
        for section, table in tree.toml(f"config/{name}.toml").items():
            for key, value in table.items():
                default = tree.defaults.get(section, {}).get(key)
                if default is None:
                    yield f"config/{name}.toml: {section}.{key} is no setting"
                elif type(value) is not type(default):
                    yield f"config/{name}.toml: {section}.{key} is a {type(value).__name__}, not a {type(default).__name__}"
                elif value == default and (section, key) != ("storage", "durability"):
                    yield f"config/{name}.toml: {section}.{key} says what config/default.toml says already"


@check
def settings_named(tree: Tree) -> Iterator[str]:
    """Every CODESWARM_… variable in a manifest, unit, script or page is one that the programs read."""
    # Streams are named like variables.
    # Two are read by tests, which write the pages that name them.
    variables = known(tree) | COMPOSE_ONLY | {"CODESWARM_FAULTS", "CODESWARM_CASES"} | {name.removeprefix("OBJ_") for name in streams(tree)}
    roots = ["docker-compose.yml", ".env.example", "README.md", "config", "deploy", "docs", "k8s"]
    files = [path for root in roots for path in ([tree.root / root] if (tree.root / root).is_file() else (tree.root / root).rglob("*"))]
    for path in sorted(files):
        if path.is_file() and "checks" not in path.parts and path.suffix not in (".pyc", ".jsonl"):
            yield from _unknown(tree, path, variables)


def _unknown(tree: Tree, path: pathlib.Path, variables: set[str]) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for name in sorted(set(TOKEN.findall(text)) - variables):
        if not name.endswith("_"):
            yield f"{path.relative_to(tree.root)}: {name} is read by no program"
