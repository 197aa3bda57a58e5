"""k8s/: every overlay builds, every object fits the schemas, and the whole keeps the rules of deploy/README.md."""
from __future__ import annotations

import functools
import json
import pathlib
import re
import shutil
import threading
from collections.abc import Iterator

import jsonschema
import referencing
import yaml
from kubernetes_validate.utils import schema_contents

from common import Tree, check

OVERLAYS = ("dev", "prod", "prod-hpa")
# Not the newest, so that a field that only the newest cluster knows is found.
VERSION = "1.35.0"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_building = threading.Lock()


def built(tree: Tree, overlay: str) -> list[dict]:
    """The objects of an overlay, with passwords made for it."""
    with _building:
        cache = tree.__dict__.setdefault("overlays", {})
        if overlay not in cache:
            secrets = tree.root / "k8s/overlays" / overlay / "secrets"
            if not secrets.exists():
                shutil.copytree(tree.secrets, secrets)
            done = tree.run("kustomize", "build", f"k8s/overlays/{overlay}")
            if done.returncode != 0:
                raise RuntimeError(f"kustomize build k8s/overlays/{overlay}: {done.stdout.replace(str(tree.root), '')[:800]}")
            cache[overlay] = list(yaml.load_all(done.stdout, Loader=LOADER))
        return cache[overlay]


@functools.cache
def validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    """The strict schema of a kind, out of those that kubernetes-validate brings. Its own function reads all definitions anew
    for every object, which takes a tenth of a second each."""
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", version)
    definitions = _definitions()
    schema = schema_contents(f"kubernetes-json-schema/v{VERSION}-local-strict/{kind.lower()}-{api}.json", VERSION)
    return jsonschema.Draft202012Validator(schema, registry=referencing.Resource.from_contents(schema) @ definitions)


@functools.cache
def _definitions() -> referencing.Registry:
    definitions = schema_contents(f"kubernetes-json-schema/v{VERSION}-local-strict/_definitions.json", VERSION)
    return (referencing.Resource.from_contents(definitions) @ referencing.Registry()).crawl()


def pods(objects: list[dict]) -> Iterator[tuple[str, dict, dict]]:
    """Name, object and pod template of everything that runs."""
    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet"):
            yield f"{item['kind']} {item['metadata']['name']}", item, item["spec"]["template"]


@check
def kubernetes_schemas(tree: Tree) -> Iterator[str]:
    """kustomize build, then kubernetes-validate --strict and our schema of KEDA's objects, for every overlay."""
    schema = json.loads((pathlib.Path(__file__).parent / "scaledobject.schema.json").read_text())
    scaled = jsonschema.Draft202012Validator(schema)
    seen = set()
    for overlay in OVERLAYS:
        for item in built(tree, overlay):
            name = f"{overlay}: {item['kind']} {item['metadata']['name']}"
            text = json.dumps(item, sort_keys=True)
            if text in seen:
                continue
            seen.add(text)
            if item["kind"] == "ScaledObject":
                for error in scaled.iter_errors(item):
                    yield f"{name}: {'.'.join(map(str, error.path))}: {error.message[:200]}"
                continue
            for error in validator(item["kind"], item["apiVersion"]).iter_errors(item):
                yield f"{name}: {'.'.join(map(str, error.path))}: {error.message[:200]}"


@check
def kubernetes_pods(tree: Tree) -> Iterator[str]:
    """Restricted pod security, probes, resources, secrets as files, patience with those that drain."""
    for overlay in OVERLAYS:
        objects = built(tree, overlay)
        for name, item, template in pods(objects):
            for fault in _pod(tree, item, template):
                yield f"{overlay}: {name} {fault}"
        for item in objects:
            labels = item["metadata"].get("labels", {})
            if item["kind"] == "Namespace" and labels.get("pod-security.kubernetes.io/enforce") != "restricted":
                yield f"{overlay}: the namespace does not enforce restricted pods"


def _pod(tree: Tree, item: dict, template: dict) -> Iterator[str]:
    spec, labels = template["spec"], template["metadata"]["labels"]
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("runAsUser", 0) == 0:
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    if spec.get("automountServiceAccountToken") is not False:
        yield "holds a token for the cluster"
    program = labels.get("codeswarm.dev/program")
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or not own.get("readOnlyRootFilesystem"):
            yield "can gain privileges or write its root file system"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or "add" in own.get("capabilities", {}):
            yield "keeps capabilities"
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
            yield "asks for no resources, or has no limit on memory"
        if re.search(r"(:latest|/[^:@]*|^[^:/@]*)$", container["image"]):
            yield f"names no version of its image {container['image']}"
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield f"has the secret {variable['name']} in its environment; mount it as a file"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"mounts {mount['name']}, which is no volume"
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if port is not None and port not in ports:
                yield f"is probed on {port}, which is no port of it"
        if program in ("coordinator", "worker"):
            yield from _serving(tree, container, spec, program)


def _serving(tree: Tree, container: dict, spec: dict, program: str) -> Iterator[str]:
    if container.get("livenessProbe", {}).get("httpGet", {}).get("path") != "/healthz":
        yield "is restarted for other reasons than its own health: the liveness probe has to ask /healthz"
    if container.get("readinessProbe", {}).get("httpGet", {}).get("path") != "/readyz" or "startupProbe" not in container:
        yield "is not asked for /readyz"
    if [port["containerPort"] for port in container["ports"]] != [tree.http_port]:
        yield f"does not listen on {tree.http_port}, as config/production.toml says"
    drain = tree.defaults["fleet"].get("drain_seconds", 600)
    if program == "worker" and spec.get("terminationGracePeriodSeconds", 30) <= drain:
        yield f"is killed before it has drained ({drain} s)"


@check
def kubernetes_fleet(tree: Tree) -> Iterator[str]:
    """Every worker program has a Deployment, every Deployment one scaler, and everything named exists."""
    for overlay in OVERLAYS:
        objects = built(tree, overlay)
        deployments = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Deployment"}
        scalers = [item["spec"]["scaleTargetRef"]["name"] for item in objects if item["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
        for agent in tree.workers:
            deployment = deployments.get(f"worker-{agent}")
            if deployment is None:
                yield f"{overlay}: there is no Deployment worker-{agent}"
                continue
            command = deployment["spec"]["template"]["spec"]["containers"][0].get("command")
            if command != [f"codeswarm-worker-{agent}"]:
                yield f"{overlay}: worker-{agent} runs {command}"
            if "replicas" in deployment["spec"]:
                yield f"{overlay}: worker-{agent} has replicas, which its autoscaler and every apply would fight over"
            if overlay != "dev" and scalers.count(f"worker-{agent}") != 1:
                yield f"{overlay}: worker-{agent} has {scalers.count(f'worker-{agent}')} autoscalers"
        for name in set(deployments) | set(scalers):
            if name.startswith("worker-") and name.removeprefix("worker-") not in tree.workers:
                yield f"{overlay}: {name} has no program in bin/"
        yield from _references(overlay, objects)
        yield from _network(overlay, objects)
    if [item["spec"]["replicas"] for item in built(tree, "prod") if item["kind"] == "Deployment" and item["metadata"]["name"] == "coordinator"] != [2]:
        yield "prod: there is no second coordinator to take over"
    budgets = {item["metadata"]["name"] for item in built(tree, "prod") if item["kind"] == "PodDisruptionBudget"}
    for name in {"coordinator", "nats"} - budgets:
        yield f"prod: {name} has no PodDisruptionBudget"


def _references(overlay: str, objects: list[dict]) -> Iterator[str]:
    """ConfigMaps and Secrets that pods name; selectors that have to match."""
    maps = {item["metadata"]["name"] for item in objects if item["kind"] == "ConfigMap"}
    secrets = {item["metadata"]["name"] for item in objects if item["kind"] == "Secret"}
    labels = [template["metadata"]["labels"] for _, _, template in pods(objects)]
    for name, _, template in pods(objects):
        text = json.dumps(template["spec"])
        for reference in re.findall(r'"(?:configMapRef|configMap)": \{"name": "([^"]+)"', text):
            if reference not in maps:
                yield f"{overlay}: {name} names the ConfigMap {reference}, which does not exist"
        named = re.findall(r'"secretName": "([^"]+)"', text) + re.findall(r'"secret": \{[^{}]*\[[^\]]*\], "name": "([^"]+)"', text)
        for reference in named:
            if secrets and reference not in secrets:
                yield f"{overlay}: {name} names the Secret {reference}, which does not exist"
    for item in objects:
        selector = {"Service": lambda i: i["spec"]["selector"], "NetworkPolicy": lambda i: i["spec"]["podSelector"].get("matchLabels", {}),
                    "PodDisruptionBudget": lambda i: i["spec"]["selector"]["matchLabels"]}.get(item["kind"])
        if selector and not any(selector(item).items() <= own.items() for own in labels):
            yield f"{overlay}: {item['kind']} {item['metadata']['name']} selects no pod"


def _network(overlay: str, objects: list[dict]) -> Iterator[str]:
    policies = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}
    default = policies.get("default-deny", {})
    if default.get("podSelector") != {} or set(default.get("policyTypes", [])) != {"Ingress", "Egress"} or "ingress" in default or "egress" in default:
        yield f"{overlay}: there is no NetworkPolicy that denies everything by default"
    ports = {port["containerPort"] for _, _, template in pods(objects) for c in template["spec"]["containers"] for port in c.get("ports", [])}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            if not rule.get("from"):
                yield f"{overlay}: NetworkPolicy {name} lets everybody in"
            for port in rule.get("ports", []):
                if port["port"] not in ports:
                    yield f"{overlay}: NetworkPolicy {name} opens port {port['port']}, on which nothing listens"
