"""Runs the checks, or their self-test; see deploy/check."""
from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import backups  # noqa: E402,F401  (importing a module registers its checks)
import compose  # noqa: E402,F401
import image  # noqa: E402,F401
import kubernetes  # noqa: E402,F401
import monitoring  # noqa: E402,F401
import names  # noqa: E402,F401
import scripts  # noqa: E402,F401
import selftest  # noqa: E402
import servers  # noqa: E402,F401
import settings  # noqa: E402,F401
import units  # noqa: E402,F401
from common import CHECKS, Tree  # noqa: E402


def faults_of(tree: Tree, name: str) -> Iterator[str]:
    """The faults that a check finds, one by one. A check that breaks has found one."""
    try:
        yield from CHECKS[name](tree)
    except Exception as error:  # noqa: BLE001  (whatever it is, the tree is not as the check expects it)
        output = getattr(error, "stdout", None)
        yield f"{type(error).__name__}: {output.strip() if output else error}"


def run(tree: Tree, name: str) -> tuple[list[str], float]:
    """All faults that a check finds, and the seconds it took."""
    began = time.monotonic()
    return list(faults_of(tree, name)), time.monotonic() - began


def check(root: pathlib.Path, tools: pathlib.Path, only: list[str]) -> int:
    tree = Tree.copy(root, tools)
    failed = 0
    chosen = only or list(CHECKS)
    try:
        with ThreadPoolExecutor(max_workers=4) as pool:
            for name, (faults, seconds) in zip(chosen, pool.map(lambda name: run(tree, name), chosen)):
                failed += bool(faults)
                summary = (CHECKS[name].__doc__ or "").splitlines()[0]
                print(f"{'FAIL' if faults else 'ok  '} {name:<22} {seconds:5.1f} s  {summary}")
                for fault in faults:
                    print(f"  - {fault}")
    finally:
        tree.remove()
    print(f"{len(chosen) - failed} of {len(chosen)} deployment checks passed")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/check")
    parser.add_argument("--tools", type=pathlib.Path, required=True)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path.cwd())
    parser.add_argument("--only", action="append", default=[], choices=sorted(CHECKS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the checks")
    parser.add_argument("--selftest", action="store_true", help="seed mistakes, and see that each is found")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:<22} {(function.__doc__ or '').splitlines()[0]}" for name, function in CHECKS.items()))
        return 0
    if arguments.selftest:
        return selftest.main(arguments.root.resolve(), arguments.tools, faults_of)
    return check(arguments.root.resolve(), arguments.tools, arguments.only)


if __name__ == "__main__":
    sys.exit(main())
