"""The program of one rank, or of a run that is one process: `python -m train.program RECIPE FOLDER`.

In: a resolved recipe and the run's folder; the environment says which rank this is. Out: one line on stdout, how it
ended; the exit code of `sixfold train`, or `EXIT_FOLLOWED` if another rank knows the cause. On disk: what
`train.session.in_folder` writes into the folder.

A run also saves and ends if the process that started it is gone (killed, or its machine taken away).
"""

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from cluster.process.exit import EXIT_FOLLOWED, EXIT_MISTAKE, leave
from cluster.process.stop_flag import StopFlag
from cluster.ranks.group import RankFailed, Ranks
from cluster.ranks.place import find_place
from cluster.recipes.load import load_recipe
from cluster.waiting import waiting
from shards.disk.home import home
from shards.disk.safe_text import for_screen, one_line
from train.recipe import TrainRecipe

LOOK_S = 2.0


def main(recipe: Path, folder: Path) -> int:
    """Train, print how it ended, and return the exit code."""
    try:
        with StopFlag() as stop:
            threading.Thread(target=_stop_without, args=(os.getppid(), stop), daemon=True).start()
            with Ranks(find_place(os.environ)) as ranks:
                chosen = load_recipe(recipe, TrainRecipe)
                with waiting("loading torch and timm") if ranks.rank == 0 else contextlib.nullcontext():
                    from train.run import train

                outcome = train(chosen, folder, home(), stop, ranks)
    except (ValueError, OSError) as error:
        print(one_line(str(error)), flush=True)
        return EXIT_FOLLOWED if isinstance(error, RankFailed) else EXIT_MISTAKE
    if ranks.rank == 0:
        print(for_screen(outcome.sentence()), flush=True)
    return outcome.exit_code


def _stop_without(parent: int, stop: StopFlag) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    stop.request("the process that started this one is gone")


if __name__ == "__main__":
    leave(main(Path(sys.argv[1]), Path(sys.argv[2])))
