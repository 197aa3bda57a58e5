"""systemd units: systemd's own verification, and how much a unit may do (`systemd-analyze security`)."""
from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from common import Tree, check

# Highest exposure level that is accepted, in tenths.
EXPOSURE = 15


@check
def systemd_units(tree: Tree) -> Iterator[str]:
    """systemd-analyze verify and security, on a root of its own where all programs exist."""
    if shutil.which("systemd-analyze") is None:
        yield "systemd-analyze is not on this machine: apt-get install systemd"
        return
    root = tree.scratch / "systemd"
    for directory in ("etc/systemd/system", "usr/local/bin", "usr/lib/systemd/system"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for target in ("basic", "sysinit", "shutdown", "network-online", "multi-user"):
        (root / f"usr/lib/systemd/system/{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    for store in ("nats-server", "redis-server"):
        (root / f"usr/lib/systemd/system/{store}.service").write_text("[Service]\nExecStart=/usr/local/bin/codeswarm\n")
    for program in (tree.root / "bin").glob("*.rs"):
        file = root / "usr/local/bin" / program.stem
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    units = []
    for unit in sorted((tree.root / "deploy/systemd").glob("*.service")):
        shutil.copy(unit, root / "etc/systemd/system")
        units += [unit.name.replace("@", f"@{agent}") for agent in tree.workers] if "@" in unit.name else [unit.name]
    done = tree.run("systemd-analyze", f"--root={root}", "verify", *units)
    # It warns about what it will ignore and still exits with 0.
    for line in done.stdout.splitlines():
        yield "systemd-analyze verify: " + line.replace(str(root), "")
    for unit in [name for name in units if "@" not in name] + [name for name in units if "@backend" in name]:
        done = tree.run("systemd-analyze", f"--root={root}", "--offline=true", "security", f"--threshold={EXPOSURE}", unit)
        if done.returncode != 0:
            yield f"systemd-analyze security: {done.stdout.strip().splitlines()[-1]}"
    drain = tree.defaults["fleet"].get("drain_seconds", 600)
    stop = re.search(r"^TimeoutStopSec=(\d+)min$", tree.text("deploy/systemd/codeswarm-worker@.service"), re.MULTILINE)
    if stop is None or int(stop.group(1)) * 60 <= drain:
        yield f"deploy/systemd/codeswarm-worker@.service: TimeoutStopSec is not over fleet.drain_seconds ({drain})"
