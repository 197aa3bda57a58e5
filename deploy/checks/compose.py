"""docker-compose.yml: that Compose can read it, and that every service keeps the rules of deploy/README.md."""
from __future__ import annotations

import re
from collections.abc import Iterator

from common import Tree, check

# Services of other people's images that have no shell to check their health with.
WITHOUT_HEALTHCHECK = {"nats-exporter", "redis-exporter", "grafana", "volume-owner", "cli"}
# Services that people start for one command.
ONE_SHOT = {"volume-owner", "cli"}


@check
def compose_file(tree: Tree) -> Iterator[str]:
    """docker-compose config, with each of the environments that are shipped."""
    for environment in (".env.example", "deploy/demo.env"):
        done = tree.run("docker-compose", "--env-file", environment, "--profile", "*", "config", "-q")
        yield from tree.said(f"docker-compose config ({environment})", done)


@check
def compose_rules(tree: Tree) -> Iterator[str]:
    """Nobody is root, nothing is writable, nothing is published that need not be, every worker is there."""
    services = tree.compose["services"]
    for name, service in services.items():
        where = f"docker-compose.yml: {name}"
        if str(service.get("user", "")).split(":")[0] in ("", "0", "root"):
            yield f"{where} runs as root or as whoever its image says"
        if not service.get("read_only"):
            yield f"{where} can write its root file system"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            yield f"{where} keeps capabilities"
        if "no-new-privileges:true" not in service.get("security_opt", []):
            yield f"{where} may gain privileges"
        if service.get("container_name"):
            yield f"{where} has a container_name, so it cannot be scaled"
        if name not in ONE_SHOT and service.get("restart") != "unless-stopped":
            yield f"{where} is not restarted"
        if name not in WITHOUT_HEALTHCHECK and not service.get("healthcheck", {}).get("test"):
            yield f"{where} has no healthcheck"
        if re.search(r"(:latest|/[^:]*|^[^:/]*)$", service["image"]):
            yield f"{where} names no version of its image {service['image']}"
        for port in service.get("ports", []):
            if name.startswith(("worker-", "coordinator")) or port.get("host_ip") != "127.0.0.1":
                yield f"{where} publishes port {port.get('published')} beyond what a person needs on this machine"
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|API_KEY|TOKEN|SECRET", variable) and "FILE" not in variable:
                yield f"{where}: {variable} holds a secret, or looks like it; name a file"
            if str(value).startswith("/run/secrets/") and value.removeprefix("/run/secrets/") not in (
                    secret.get("target", secret["source"]).removeprefix("/run/secrets/") for secret in service.get("secrets", [])):
                yield f"{where}: {variable} names {value}, which is not mounted"
    yield from _workers(tree, services)


def _workers(tree: Tree, services: dict) -> Iterator[str]:
    drain = tree.defaults["fleet"].get("drain_seconds", 600)
    for agent in tree.workers:
        service = services.get(f"worker-{agent}")
        if service is None:
            yield f"docker-compose.yml: there is no service worker-{agent}"
            continue
        if service.get("entrypoint") != [f"codeswarm-worker-{agent}"]:
            yield f"docker-compose.yml: worker-{agent} runs {service.get('entrypoint')}"
        if _seconds(service.get("stop_grace_period", "10s")) <= drain:
            yield f"docker-compose.yml: worker-{agent} is killed before it has drained ({drain} s)"
        if "healthcheck" not in service.get("healthcheck", {}).get("test", []):
            yield f"docker-compose.yml: worker-{agent} is not asked with `codeswarm healthcheck`"
    for name in services:
        if name.startswith("worker-") and name.removeprefix("worker-") not in tree.workers:
            yield f"docker-compose.yml: {name} has no program in bin/"
    if services.get("coordinator", {}).get("deploy", {}).get("replicas", 1) < 2:
        yield "docker-compose.yml: there is no second coordinator to take over"


@check
def compose_variables(tree: Tree) -> Iterator[str]:
    """Every variable of docker-compose.yml is explained in .env.example, with the same default."""
    explained = dict(re.findall(r"^([A-Z_]+)=(.*)$", tree.text(".env.example"), re.MULTILINE))
    demo = dict(re.findall(r"^([A-Z_]+)=(.*)$", tree.text("deploy/demo.env"), re.MULTILINE))
    used = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):?-?([^}]*)\}", tree.text("docker-compose.yml")))
    for name, default in used.items():
        if name not in explained and name not in demo:
            yield f".env.example does not explain {name}"
        elif explained.get(name, default) != default:
            yield f".env.example has {name}={explained[name]}, docker-compose.yml defaults to {default}"
    for name in sorted((explained.keys() | demo.keys()) - used.keys()):
        if not name.startswith("COMPOSE_"):
            yield f"{name} is in an environment file, but docker-compose.yml does not use it"


def _seconds(text: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", text))
