"""The checks checked: one mistake of each kind is seeded into a copy of the tree, and the check it is meant for has to find it.

A seed names the check, the file, what stands there and what is put in its place, and a word of the fault that must come out,
so that a check cannot pass this by finding something else. A seed that no longer fits the file is a failure too.
"""
from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from common import CHECKS, Tree
from seeds import SEEDS


@dataclass
class Result:
    name: str
    problem: str | None


def _seed(root: pathlib.Path, tools: pathlib.Path, faults_of: Callable, seed: tuple[str, str, str, str, str]) -> Result:
    check, path, old, new, expected = seed
    name = f"{check}: {path}: {expected}"
    tree = Tree.copy(root, tools)
    try:
        file = tree.root / path
        if old == "" and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(new)
        else:
            text = file.read_text(encoding="utf-8")
            if old not in text:
                return Result(name, f"the seed does not fit: {old!r} is not in {path}")
            file.write_text(text.replace(old, new), encoding="utf-8")
        others = []
        # One that has found it need not look further.
        for fault in faults_of(tree, check):
            if expected in fault:
                return Result(name, None)
            others.append(fault)
        return Result(name, f"something else was found: {others[0][:200]}" if others else "not found")
    finally:
        tree.remove()


def main(root: pathlib.Path, tools: pathlib.Path, faults_of: Callable) -> int:
    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(lambda seed: _seed(root, tools, faults_of, seed), SEEDS))
    missed = [result for result in results if result.problem]
    for result in missed:
        print(f"FAIL {result.name}\n  - {result.problem}")
    unseeded = sorted(CHECKS.keys() - {seed[0] for seed in SEEDS})
    for check in unseeded:
        print(f"FAIL {check}\n  - no mistake is seeded for it")
    print(f"{len(results) - len(missed)} of {len(results)} seeded mistakes were found, in {time.monotonic() - began:.1f} s")
    return 1 if missed or unseeded else 0
