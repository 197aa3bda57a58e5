"""Names that two sides have to agree on: streams, consumers, subjects, accounts, ports."""
from __future__ import annotations

import re
from collections.abc import Iterator

from common import Tree, check
from kubernetes import built

NAMES = "src/backend/nats/names.rs"


def streams(tree: Tree) -> set[str]:
    """The streams that the programs make in the deployed namespace."""
    upper = tree.namespace.upper()
    text = tree.text(NAMES)
    found = {f"{upper}_{name}" for name in re.findall(r'"\{(?:upper)?\}_([A-Z]+)"', text)}
    # Artifacts are an object store; its stream has this prefix on every server.
    return {f"OBJ_{name}" if name.endswith("_ARTIFACTS") else name for name in found}


@check
def stream_names(tree: Tree) -> Iterator[str]:
    """Streams in deploy/nats/nats.conf are those of src/backend/nats/names.rs."""
    real = streams(tree)
    if len(real) < 6:
        yield f"{NAMES} names only {sorted(real)}"
    text = tree.text("deploy/nats/nats.conf")
    named = {token for subject in re.findall(r'"\$JS\.([^"]+)"', text) for token in subject.split(".") if "_" in token}
    for name in sorted(named - real):
        yield f"deploy/nats/nats.conf: no program makes a stream {name}"
    for name in sorted(real - named):
        yield f"deploy/nats/nats.conf: nobody may use the stream {name}"
    for first in sorted(set(re.findall(r'"([a-z-]+)\.[a-z>]', text)) - {tree.namespace}):
        yield f"deploy/nats/nats.conf: subjects begin with {first}, not with the namespace {tree.namespace}"


@check
def consumers(tree: Tree) -> Iterator[str]:
    """KEDA looks at every queue of every worker, and all of them together are what it scales on."""
    account = re.search(r"^  ([A-Z]+): \{\n    jetstream: enabled", tree.text("deploy/nats/nats.conf"), re.MULTILINE)
    concurrency = {}
    for item in built(tree, "prod"):
        if item["kind"] == "Deployment":
            env = item["spec"]["template"]["spec"]["containers"][0].get("env", [])
            concurrency[item["metadata"]["name"]] = {v["name"]: v.get("value") for v in env}.get("CODESWARM_FLEET_CONCURRENCY")
    found = 0
    for item in built(tree, "prod"):
        if item["kind"] != "ScaledObject":
            continue
        found += 1
        name, spec = item["metadata"]["name"], item["spec"]
        agent = spec["scaleTargetRef"]["name"].removeprefix("worker-")
        wanted = [(priority, f"{agent}-{priority}") for priority in tree.priorities]
        if [(t["name"], t["metadata"]["consumer"]) for t in spec["triggers"]] != wanted:
            yield f"k8s/components/keda: {name} looks at {[t['metadata']['consumer'] for t in spec['triggers']]}"
        for trigger in spec["triggers"]:
            data = trigger["metadata"]
            if data["stream"] != f"{tree.namespace.upper()}_TASKS":
                yield f"k8s/components/keda: {name} looks at the stream {data['stream']}"
            if account is None or data["account"] != account.group(1):
                yield f"k8s/components/keda: {name} looks at the account {data['account']}"
            if data["natsServerMonitoringEndpoint"] != f"nats-headless.{item['metadata']['namespace']}.svc.cluster.local:8222":
                yield f"k8s/components/keda: {name} asks {data['natsServerMonitoringEndpoint']}"
        modifiers = spec["advanced"]["scalingModifiers"]
        if modifiers["formula"] != " + ".join(tree.priorities):
            yield f"k8s/components/keda: {name} is scaled on {modifiers['formula']}"
        if modifiers["target"] != concurrency.get(spec["scaleTargetRef"]["name"]):
            yield f"k8s/components/keda: {name} aims at {modifiers['target']} tasks per pod, which works on {concurrency.get(spec['scaleTargetRef']['name'])}"
    if found != len(tree.workers):
        yield f"k8s/components/keda has {found} ScaledObjects for {len(tree.workers)} worker programs"


@check
def ports(tree: Tree) -> Iterator[str]:
    """Servers listen where URLs, Services, probes and network rules say."""
    nats, redis = tree.text("deploy/nats/nats.conf"), tree.text("deploy/redis/redis.conf")
    listening = {
        "nats": re.search(r'^listen: "0\.0\.0\.0:(\d+)"', nats, re.MULTILINE).group(1),
        "monitor": re.search(r'^http: "0\.0\.0\.0:(\d+)"', nats, re.MULTILINE).group(1),
        "cluster": re.search(r'listen: "0\.0\.0\.0:(\d+)"', tree.text("k8s/components/production/cluster.conf")).group(1),
        "redis": re.search(r"^port (\d+)", redis, re.MULTILINE).group(1),
    }
    for item in built(tree, "prod"):
        if item["kind"] == "StatefulSet":
            for port in item["spec"]["template"]["spec"]["containers"][0]["ports"]:
                if str(port["containerPort"]) != listening[port["name"]]:
                    yield f"k8s/base: port {port['name']} is {port['containerPort']}, the server listens on {listening[port['name']]}"
        if item["kind"] == "Service":
            for port in item["spec"]["ports"]:
                if port["name"] in listening and str(port["port"]) != listening[port["name"]]:
                    yield f"k8s/base: Service {item['metadata']['name']} has {port['name']} on {port['port']}"
    urls = tree.text("docker-compose.yml") + tree.text("k8s/base/settings.yaml")
    for scheme, name in (("nats", "nats"), ("redis", "redis")):
        for found in set(re.findall(rf"{scheme}://{name}:(\d+)", urls)) - {listening[name]}:
            yield f"{scheme}://{name}:{found} is named somewhere, but the server listens on {listening[name]}"
