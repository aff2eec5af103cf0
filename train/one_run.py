"""The program that a sweep starts for each run: `python -m train.one_run RECIPE FOLDER`.

In: a resolved recipe and the run's folder. Out: the training's exit code; 75 if it was asked to stop and saved. On
disk: what `train.loop` writes into the folder. One line on stderr says what was wrong.

A run whose worker is gone (killed, machine taken back) saves and ends too: nobody waits for it any more.
"""

import os
import sys
import threading
import time
from pathlib import Path

from cluster.code import home
from cluster.recipe import load_recipe
from cluster.signals import StopFlag
from cluster.work import EXIT_FAILED

LOOK_S = 2.0


def main(recipe: Path, folder: Path) -> int:
    from train.loop import train
    from train.recipe import TrainRecipe

    try:
        with StopFlag() as stop:
            threading.Thread(target=_stop_without, args=(os.getppid(), stop), daemon=True).start()
            return int(train(load_recipe(recipe, TrainRecipe), folder, home(), stop).exit_code)
    except (ValueError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return EXIT_FAILED


def _stop_without(parent: int, stop: StopFlag) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    stop.request("the worker that started this run is gone")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
