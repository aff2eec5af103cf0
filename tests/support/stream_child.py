"""A rank that reads a stream until it is killed, and writes down what it was handed: `python -m
tests.support.stream_child`.

In: one JSON object as argument (spec, rank, world, groups, seed, epoch_steps, state or null, out). On disk: `out`, one
line a step, synced before the next is asked for: the step, a hash of each group, the state to go on from.
"""

import hashlib
import json
import os
import sys
import time

import numpy as np

from shards.stream.spec import StreamSpec
from shards.stream.stream import Batch, Stream

PAUSE_S = 0.005  # so that a test's random moments fall anywhere in a step


def groups_of(batch: Batch) -> list[str]:
    """A hash of all that is trained on, for each group."""
    hashes = []
    for group in np.split(np.arange(len(batch.labels)), batch.groups):
        digest = hashlib.sha256()
        parts = [batch.images[group].tobytes(), batch.labels[group].tobytes(), batch.uids[group].tobytes()]
        if batch.mix is not None:
            inside = batch.mix.partner[group] - group  # the same for each number of ranks
            parts += [inside.tobytes(), batch.mix.share[group].tobytes(), batch.mix.box[group].tobytes()]
        for part in parts:
            digest.update(part)
        hashes.append(digest.hexdigest()[:32])
    return hashes


def main() -> None:
    told = json.loads(sys.argv[1])
    with (
        open(told["out"], "w", encoding="ascii") as out,
        Stream(
            StreamSpec.model_validate(told["spec"]),
            groups=told["groups"],
            seed=told["seed"],
            epoch_steps=told["epoch_steps"],
            rank=told["rank"],
            world=told["world"],
            state=told["state"],
            agree=lambda numbers: numbers,  # all ranks of the test read one folder that stays as it is
        ) as stream,
    ):
        for batch in stream:
            line = {"step": batch.step, "groups": groups_of(batch), "state": stream.state()}
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
