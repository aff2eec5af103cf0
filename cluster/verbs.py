"""The verb about this machine: doctor."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.console import path_option, say
from cluster.waiting import waiting
from shards.disk.home import home


def doctor(
    out: Annotated[Path, path_option("The folder that a run would write.")] = Path("out"),
) -> None:
    """Check this machine: versions, GPUs, memory, disk, Ray, safety switches, the sandbox. Exit 3 if one is bad.

    Example: `sixfold doctor --out out/sandbox`
    """
    with waiting("loading the program"):
        from cluster.doctor import Check, examine
        from cluster.process.exit import EXIT_INCOMPLETE

    missing = Check("sandbox", "bad", "no models in sandbox/models", "make them with `make sandbox`")
    models = home() / "sandbox" / "models" / "generator" / "model_index.json"
    sandbox = Check("sandbox", "ok", "models are there") if models.is_file() else missing
    with waiting("examining this machine"):
        checks = [*examine(os.environ, out), sandbox]
    for check in checks:
        advice = f"  -> {check.advice}" if check.verdict != "ok" else ""
        say(f"{check.verdict:<5}{check.name:<18}{check.found}{advice}")
    raise typer.Exit(EXIT_INCOMPLETE if any(check.verdict == "bad" for check in checks) else 0)
