"""Shell scripts: shellcheck."""
from __future__ import annotations

from collections.abc import Iterator

from common import Tree, check


@check
def shell_scripts(tree: Tree) -> Iterator[str]:
    """shellcheck on every shell script that is shipped for deployment."""
    scripts = []
    for directory in ("deploy", "k8s"):
        for path in sorted((tree.root / directory).rglob("*")):
            if path.is_file() and path.suffix in ("", ".sh"):
                first = path.read_bytes()[:64].splitlines()[:1]
                if first and (b"bash" in first[0] or b"/sh" in first[0]):
                    scripts.append(path.relative_to(tree.root))
    if len(scripts) < 8:
        yield f"only {len(scripts)} scripts were found"
    yield from tree.said("shellcheck", tree.run("shellcheck", "--external-sources", "--color=never", *scripts), lines=30)
