"""Two ranks that train together over gloo; run as `python -m tests.support.train_ranks <rank> <folder>`.

<folder>/jobs.json lists trainings, one after the other: name, the recipe of each rank, output folder, port, and after
how many looks at its stop flag a rank asks for the end, and the disk (`tests.support.faulty_disk.DISKS`) for
checkpoints. Each rank leaves <name>-<rank>.txt: the exit code, or its error.
"""

import json
import os
import sys
import time
from pathlib import Path

from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from cluster.recipes.load import load_recipe
from shards.disk.home import home
from tests.support.faulty_disk import DISKS
from tests.support.rank_environment import rank_environment
from tests.support.small_training import StopAfter
from train.recipe import TrainRecipe
from train.run import train

NUM_RANKS = 2


def main(rank: int, folder: Path) -> None:
    for job in json.loads((folder / "jobs.json").read_text()):
        os.environ |= rank_environment(rank, NUM_RANKS, job["port"])
        began = time.monotonic()
        try:
            with Ranks(find_place(os.environ)) as ranks:
                recipe = load_recipe(Path(job["recipes"][rank]), TrainRecipe)
                stop = StopAfter(job["stop"][rank])
                outcome = train(recipe, Path(job["out"]), home(), stop, ranks, DISKS[job["disk"]]())
            said = str(outcome.exit_code)
        except (ValueError, OSError) as error:
            said = str(error)
        (folder / f"{job['name']}-{rank}.txt").write_text(said)
        (folder / f"{job['name']}-{rank}.seconds").write_text(f"{time.monotonic() - began:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
