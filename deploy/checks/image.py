"""deploy/Dockerfile: hadolint, and what it has to be so that it builds anywhere and runs as nobody."""
from __future__ import annotations

import re
from collections.abc import Iterator

from common import Tree, check

PATH = "deploy/Dockerfile"


@check
def dockerfile(tree: Tree) -> Iterator[str]:
    """hadolint."""
    yield from tree.said("hadolint", tree.run("hadolint", "--no-color", PATH))


@check
def dockerfile_rules(tree: Tree) -> Iterator[str]:
    """Builds offline and with old builders; one unprivileged image for everything."""
    text = tree.text(PATH)
    if re.search(r"^#\s*syntax=", text, re.MULTILINE):
        yield f"{PATH} has a syntax line, which fetches a frontend from a registry"
    if re.search(r"^RUN --mount", text, re.MULTILINE):
        yield f"{PATH} uses RUN --mount, which the old builder does not know"
    for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if not name.startswith("${") and not re.search(rf"AS {re.escape(name)}$", text, re.MULTILINE):
            yield f"{PATH} is built on {name}; base images have to be arguments"
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        yield f"{PATH} ends as user {users[-1:] or 'root'}; Kubernetes wants to see a number that is not 0"
    for line in re.findall(r"^(?:ENTRYPOINT|CMD) .*", text, re.MULTILINE):
        if not re.match(r"\w+ \[", line):
            yield f"{PATH}: {line} starts a shell, which keeps signals from the program"
    if f"EXPOSE {tree.http_port}" not in text:
        yield f"{PATH} does not expose {tree.http_port}, the port of http.listen in config/production.toml"
    for target in ("prebuilt", "runtime"):
        if not re.search(rf"^FROM base AS {target}$", text, re.MULTILINE):
            yield f"{PATH} has no target {target}"
    if "org.opencontainers.image.licenses" not in text:
        yield f"{PATH} has no OCI labels"
    ignored = tree.text(".dockerignore").split()
    for source in re.findall(r"^COPY (?!--from|--chown)(.+) \S+$", text, re.MULTILINE):
        for part in source.split():
            if f"!{part.split('/')[0]}" not in ignored:
                yield f".dockerignore keeps {part} from {PATH}"
