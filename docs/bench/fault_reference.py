"""Writes docs/FAULTS.md from the names of the tests: `python -m docs.bench.fault_reference`; a test compares the two.

In: the files of tests/, whose fault tests begin with the cases they show, as in
`test_a8_a_truncated_shard_is_always_reported`. Out and on disk: docs/FAULTS.md, one line per case.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from shards.disk.home import home

ROOT = home()
PAGE = ROOT / "docs" / "FAULTS.md"
GROUPS = {
    "a": "Commit protocol and files",
    "b": "Ray and processes",
    "c": "Signals, time limits, requeues",
    "d": "Streaming and training",
    "e": "Content and determinism",
    "f": "Indexes",
    "g": "Fetching",
    "h": "Archives and decoders",
    "i": "Weights, recipes, code loading",
    "j": "Texts, gallery, reports",
    "k": "Logs, secrets, provenance",
}
# What must have a test before anything is released.
REQUIRED = {
    *(f"a{number}" for number in (*range(1, 15), 16, 17, 23, 25, 28)),
    *(f"b{number}" for number in (1, 3, 7, 8, 9, 12, 23)),
    *(f"d{number}" for number in range(1, 12)),
    *(f"e{number}" for number in range(1, 8)),
    *(f"g{number}" for number in range(1, 15)),
    *("h2", "h5", "j1", "j3", "k1", "k2", "k5"),
}
INTRODUCTION = """# What happens when things break

Every line is a test, and its name is the promise. `make test` runs the short form of each, `make torture` the long
one (marked *long*). A random test prints its seed. A case is a letter, which names one of the groups below, and a
number within the group: the test of case A8 is called `test_a8_...`. A run ends with exit code 0 (complete), 1 (it
could not go on), 2 (a mistake in the request), 3 (incomplete or damaged; the output names what), 75 (stopped on
request; the same command continues).

Long runs of November 2026, on two cores that were busy with other work:

* without Ray: 1,000 SIGKILLs, 931 of them in the middle of a shard: nothing lost, nothing doubled, same bytes; 1,000
  races of two attempts: one winner each, known to both; 50 of 50 attempts that were stopped and went on changed
  nothing; every call of the commit path x 12 faults: every unit done once; 100 file size limits and one full disk:
  the next attempt completed;
* damage: 10,000 mutated shards: 9,564 flagged, 436 unchanged, none unnoticed; 10,000 single bit flips: all named;
* with Ray: 200 killed workers over 2,000 units (10 minutes): nothing lost, nothing doubled, at most one unit lost per
  kill; 4 lost nodes over 60 units; 10 killed drivers with clusters of their own over 200 units: no process left,
  every unit done once; 50 of 50 signals to drivers ended cleanly;
* the whole path with the real sampler at 6x, the driver killed 3 times and 20 of its workers at random moments: 1,200
  images with the bytes of an undisturbed run;
* training, killed at 20 random moments, and on two ranks stopped at 20 random steps: the bits of an undisturbed
  training; 10,000 random layouts: exact quotas in every group of every rank.

All of this was repeated on 28 and 29 November 2026, after the ways in which files of others are read had changed: 12
long tests without Ray (16 minutes) and 17 over Ray and of trainings (25 minutes; 200 killed workers took 338 s) passed.

Clusters, on 30 November 2026: a Ray cluster of three nodes that lost 200 workers, 10 nodes, 5 drivers and its head
twice over 2,000 units: every unit done once, 417 s. A SLURM of two machines: jobs that were warned, preempted,
cancelled and begun again, that shared a machine or were longer than their time limit, arrays whose tasks were killed
and added: the same bytes (42 to 91 s each); trainings on one machine and on two, warned under way: the same bits.
"""


@dataclass(frozen=True)
class Promise:
    cases: tuple[str, ...]  # a1, b12, …
    sentence: str
    file: str
    is_long: bool


def promises() -> Iterator[Promise]:
    """The fault tests, in the order of files and lines."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            rest, cases = node.name.removeprefix("test_"), []
            while match := re.match(r"([a-k][0-9]{1,2})_", rest):
                cases.append(match[1])
                rest = rest[match.end() :]
            known = tuple(case for case in cases if case[0] in GROUPS)
            if known:
                is_long = any("torture" in ast.unparse(decorator) for decorator in node.decorator_list)
                yield Promise(known, rest.replace("_", " "), file.relative_to(ROOT / "tests").as_posix(), is_long)


def page() -> str:
    lines = [INTRODUCTION]
    found = list(promises())
    for letter, title in GROUPS.items():
        mine = [(case, one) for one in found for case in one.cases if case[0] == letter]
        if not mine:
            continue
        lines += [f"## {title}", "", "| case | promise | test |", "|---|---|---|"]
        for case, one in sorted(mine, key=lambda pair: (int(pair[0][1:]), pair[1].is_long, pair[1].sentence)):
            long = " *(long)*" if one.is_long else ""
            lines.append(f"| {case.upper()} | {one.sentence}{long} | [{one.file}](../tests/{one.file}) |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
