"""A pair of processes that does trainings of two ranks, one after the other: see `tests.support.train_ranks`."""

import json
from pathlib import Path
from typing import Any

from cluster.ranks.host import free_port
from cluster.recipes.load import dump_recipe
from tests.support import warm
from tests.support.small_training import NEVER
from tests.support.train_ranks import NUM_RANKS


class Pair:
    """What the two ranks left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []

    def add(
        self, name: str, recipes: list[Any], out: str, stop: tuple[int, int] = (NEVER, NEVER), disk: str = "real"
    ) -> None:
        """`recipes`: of each rank, or the text of its file."""
        paths = []
        for rank, recipe in enumerate(recipes):
            path = self.folder / f"{name}-{rank}.yaml"
            path.write_text(recipe if isinstance(recipe, str) else dump_recipe(recipe))
            paths.append(str(path))
        self.jobs.append(
            {
                "name": name,
                "recipes": paths,
                "out": str(self.folder / out),
                "port": free_port(),
                "stop": stop,
                "disk": disk,
            }
        )

    def run(self) -> None:
        (self.folder / "jobs.json").write_text(json.dumps(self.jobs))
        children = [
            warm.start(["-m", "tests.support.train_ranks", str(rank), str(self.folder)]) for rank in range(NUM_RANKS)
        ]
        try:
            said = [child.communicate(timeout=1000)[1] for child in children]
        finally:
            for child in children:
                child.kill()
        assert [child.returncode for child in children] == [0, 0], "\n".join(said)[-3000:]

    def said(self, name: str) -> list[str]:
        return [(self.folder / f"{name}-{rank}.txt").read_text() for rank in range(NUM_RANKS)]

    def seconds(self, name: str) -> float:
        return max(float((self.folder / f"{name}-{rank}.seconds").read_text()) for rank in range(NUM_RANKS))
