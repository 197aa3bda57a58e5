"""Prometheus and Grafana: promtool on configuration, rules, their tests, and every expression of the dashboards."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator

import yaml

from common import Tree, check

RULES = ("deploy/prometheus/rules/recording.yml", "deploy/prometheus/rules/alerts.yml")
# What Grafana puts in the place of its variables.
SUBSTITUTES = {"$__rate_interval": "1m", "$__interval": "1m", "$agent_type": ".*"}


def rules(tree: Tree) -> list[dict]:
    return [rule for path in RULES for group in tree.yaml(path)["groups"] for rule in group["rules"]]


def expressions(tree: Tree) -> Iterator[tuple[str, str]]:
    """Every expression of every dashboard, and where it stands."""
    for path in sorted((tree.root / "deploy/grafana/dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"]
        for annotation in dashboard.get("annotations", {}).get("list", []):
            yield f"{path.name}: {annotation['name']}", annotation["expr"]


@check
def prometheus(tree: Tree) -> Iterator[str]:
    """promtool check config, check rules, test rules."""
    yield from tree.said("promtool check config", tree.run("promtool", "check", "config", "deploy/prometheus/prometheus.yml"))
    done = tree.run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    yield from tree.said("promtool check rules", done)
    for test in sorted((tree.root / "deploy/prometheus/tests").glob("*.yml")):
        yield from tree.said("promtool test rules", tree.run("promtool", "test", "rules", test), lines=20)
    tests = tree.text("deploy/prometheus/tests/alerts.yml")
    for rule in rules(tree):
        name = rule.get("alert")
        if name and not re.search(rf"\b{name}\b", tests):
            yield f"deploy/prometheus/tests: the alert {name} is never tested"


@check
def prometheus_targets(tree: Tree) -> Iterator[str]:
    """Prometheus asks every service of docker-compose.yml that has metrics, on the right port."""
    services = tree.compose["services"]
    for job in tree.yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]:
        targets = [target for group in job.get("static_configs", []) for target in group["targets"]]
        for group in job.get("dns_sd_configs", []):
            targets += [f"{name}:{group['port']}" for name in group["names"]]
            if group["port"] != tree.http_port:
                yield f"deploy/prometheus/prometheus.yml: {job['job_name']} is asked on {group['port']}, not {tree.http_port}"
        for target in targets:
            if target.split(":")[0] not in services:
                yield f"deploy/prometheus/prometheus.yml: {target} is no service of docker-compose.yml"
        if job["job_name"] == "codeswarm":
            for name in services:
                if (name.startswith("worker-") or name == "coordinator") and f"{name}:{tree.http_port}" not in targets:
                    yield f"deploy/prometheus/prometheus.yml: {name} is not asked"
    for path in RULES:
        jobs = set(re.findall(r'up\{job="([a-z-]+)"\}', tree.text(path)))
        for job in jobs - {job["job_name"] for job in tree.yaml("deploy/prometheus/prometheus.yml")["scrape_configs"]}:
            yield f"{path}: there is no job {job}"


@check
def grafana(tree: Tree) -> Iterator[str]:
    """Every expression of the dashboards is read by promtool; data sources and directories fit."""
    records = []
    for number, (where, expression) in enumerate(expressions(tree)):
        for variable in set(re.findall(r"\$\w+", expression)):
            if variable not in SUBSTITUTES:
                yield f"{where}: an unknown variable {variable}"
            expression = expression.replace(variable, SUBSTITUTES.get(variable, "1m"))
        records.append({"record": f"check:{number}", "expr": expression})
    file = tree.scratch / "dashboards.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": records}]}))
    yield from tree.said("promtool check rules (dashboards)", tree.run("promtool", "check", "rules", "--lint=none", file))
    sources = {source["uid"] for source in tree.yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]}
    for path in (tree.root / "deploy/grafana/dashboards").glob("*.json"):
        used = set(re.findall(r'"uid": "([^"]+)"', path.read_text())) - {json.loads(path.read_text())["uid"]}
        for uid in used - sources:
            yield f"{path.name}: there is no data source {uid}"
    mounted = [v["target"] for v in tree.compose["services"]["grafana"]["volumes"]]
    for provider in tree.yaml("deploy/grafana/provisioning/dashboards/codeswarm.yml")["providers"]:
        if provider["options"]["path"] not in mounted:
            yield f"deploy/grafana: dashboards are looked for in {provider['options']['path']}, which is not mounted"


@check
def metrics_named(tree: Tree) -> Iterator[str]:
    """Alerts and dashboards use metrics that docs/metrics.md lists, and it lists those that the programs have."""
    listed = {name: set(filter(None, labels.replace("`", "").replace(" ", "").split(",")))
              for name, labels in re.findall(r"^\| `(codeswarm_\w+)` \| \w+ \| ([^|]*) \|", tree.text("docs/metrics.md"), re.MULTILINE)}
    recorded = {rule["record"] for rule in rules(tree) if "record" in rule}
    source = tree.root / "src/metric.rs"
    if source.exists():
        real = set(re.findall(r'"(codeswarm_\w+)"', source.read_text(encoding="utf-8")))
        for name in sorted(real - listed.keys()):
            yield f"docs/metrics.md does not list {name}"
        for name in sorted(listed.keys() - real):
            yield f"docs/metrics.md lists {name}, which src/metric.rs does not have"
    used = [(path, rule["expr"]) for path in RULES for group in tree.yaml(path)["groups"] for rule in group["rules"]] + list(expressions(tree))
    for where, expression in used:
        for name in set(re.findall(r"\bcodeswarm_\w+", expression)):
            plain = name if name in listed else re.sub(r"_(bucket|sum|count)$", "", name)
            if plain not in listed:
                yield f"{where}: {name} is in no list of metrics"
        for name in set(re.findall(r"\bcodeswarm:[a-z_]+:[a-z0-9]+", expression)) - recorded:
            yield f"{where}: {name} is not recorded"
        for name, labels in re.findall(r"\b(codeswarm_\w+)\{([^}]*)\}", expression):
            plain = name if name in listed else re.sub(r"_(bucket|sum|count)$", "", name)
            for label in re.findall(r"(\w+)\s*[=!]", labels):
                if label not in listed.get(plain, set()):
                    yield f"{where}: {name} has no label {label}"
