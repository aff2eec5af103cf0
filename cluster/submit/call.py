"""A command line of ours that is to run elsewhere, and where that is.

In: a verb, its recipe and arguments; the text of `--to`. Out: a `Call`, a `Target`. On disk: nothing.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from shards.disk.safe_text import quoted

Verb: TypeAlias = Literal["generate", "edit", "retrieve", "train", "sweep"]
VERBS: tuple[Verb, ...] = ("generate", "edit", "retrieve", "train", "sweep")
Kind = Literal["local", "slurm", "ray", "job", "k8s", "cloud"]
EXPECTED = "local, slurm, ray://HOST:PORT, job:http://HOST:8265, k8s or cloud"
RANKS = "--ranks"  # of a training: how many processes over Ray
# where each verb writes unless it is told, as the verbs themselves say
PLACES: dict[Verb, str] = {
    "generate": "out/",
    "edit": "out/",
    "retrieve": "out/",
    "train": "out/train/",
    "sweep": "out/sweeps/",
}


@dataclass(frozen=True)
class Call:
    """`sixfold VERB RECIPE ARGUMENT...`, with whole paths, so that it means the same from any folder."""

    verb: Verb
    recipe: Path
    name: str  # of the recipe
    out: str  # a folder or a URL
    arguments: tuple[str, ...] = ()  # besides these: the scale, overrides
    named: tuple[tuple[str, str, Path], ...] = ()  # what the recipe reads here: field, value, file or folder

    @property
    def words(self) -> list[str]:
        """What follows the name of the program."""
        return [self.verb, str(self.recipe), *self.arguments, "--out", self.out]

    @property
    def line(self) -> str:
        """The command as a person would type it."""
        return shlex.join(["sixfold", *self.words])


@dataclass(frozen=True)
class Target:
    """Where a call runs. `address`: host:port of a Ray cluster's head, or the URL of its job server; "" otherwise."""

    kind: Kind
    address: str = ""

    def __str__(self) -> str:
        return {"ray": f"ray://{self.address}", "job": f"job:{self.address}"}.get(self.kind, self.kind)


def parse_target(text: str) -> Target:
    """`--to` as text. Raises ValueError for a text that names no place."""
    if text in ("local", "slurm", "k8s", "cloud"):
        return Target(text)  # type: ignore[arg-type]
    if match := re.fullmatch(r"ray://([A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", text):
        return Target("ray", f"{match[1]}:{match[2]}")
    if match := re.fullmatch(r"job:(https?://[A-Za-z0-9_.:\[\]-]+)/?", text):
        return Target("job", match[1])
    raise ValueError(f"--to: found {quoted(text, 80)}, expected {EXPECTED}")


def whole(words: Sequence[str]) -> str:
    """The words as one line for a shell, each quoted where it must be."""
    return shlex.join(words)
