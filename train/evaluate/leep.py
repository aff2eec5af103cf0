"""LEEP, the log expected empirical prediction: how well the outputs of a net tell the classes of another task.

In: the softmax of a net over its own classes z for pictures of a target set, and their labels y. Out: the mean over the
pictures of log sum_z P(y|z) theta_z(x), in nats: 0 for a net that tells every class, and never below minus the entropy
of y given z. On disk: a line of `leep.jsonl` for each figure that is asked for.

P(y|z) comes from the empirical joint: P(y,z) is the mean over the pictures of theta_z(x), those of class y alone. Both
passes take the pictures in parts, so the memory is that of one part and of Y Z numbers.

Source: Nguyen, Hassner, Seeger and Archambeau 2020, section 3.

Shapes: N pictures of a part, Z outputs of the net, Y classes of the target set.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.recipes.load import canonical_json
from shards.stream.index_arrays import Index
from shards.stream.read_all import read_all
from shards.stream.spec import EvalSpec
from train.evaluate.counts import Floats, Int64, Pixels

LEEP = "leep.jsonl"

Part = tuple[Floats, Int64]  # theta_NZ, labels_N in 0..Y - 1
Joint = npt.NDArray[np.float64]  # Y Z: the sums over pictures of theta


def joint_of(parts: Iterable[Part], num_classes: int, num_outputs: int) -> Joint:
    """The sums of the first pass; those of several ranks are added up."""
    joint = np.zeros((num_classes, num_outputs))
    for theta_NZ, labels_N in parts:
        np.add.at(joint, labels_N, _checked(theta_NZ, labels_N, joint.shape))
    return joint


def log_sum(parts: Iterable[Part], joint: Joint) -> tuple[float, int]:
    """The sum over the pictures of log sum_z P(y|z) theta_z, and how many they are; of several ranks to be added up."""
    of_output_Z = joint.sum(0)
    given_YZ = np.divide(joint, of_output_Z, out=np.zeros_like(joint), where=of_output_Z > 0)
    total, n = 0.0, 0
    for theta_NZ, labels_N in parts:
        expected_N = (_checked(theta_NZ, labels_N, joint.shape) * given_YZ[labels_N]).sum(1)
        total += float(np.log(expected_N).sum())  # above 0: each picture is in the joint itself
        n += len(labels_N)
    return total, n


def _checked(theta_NZ: Floats, labels_N: Int64, shape: tuple[int, ...]) -> Joint:
    wide = theta_NZ.astype(np.float64)
    if wide.shape != (len(labels_N), shape[1]):
        raise ValueError(
            f"LEEP: found probabilities of the shape {list(wide.shape)}, expected {[len(labels_N), shape[1]]}"
        )
    if not (np.isfinite(wide).all() and (wide >= 0).all() and (wide.sum(1) > 0).all()):
        raise ValueError("LEEP: found numbers that are no probabilities, expected the softmax of each picture")
    if len(labels_N) and not 0 <= int(labels_N.min()) <= int(labels_N.max()) < shape[0]:
        raise ValueError(f"LEEP: found labels up to {int(labels_N.max())}, expected 0 to {shape[0] - 1}")
    return wide / wide.sum(1, keepdims=True)


def softmax(logits_NZ: Floats) -> Joint:
    """Probabilities in fp64."""
    wide = logits_NZ.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def parts_of(
    logits: Callable[[Pixels], Floats], reading: EvalSpec, index: Index, batch: int, rank: int = 0, world: int = 1
) -> Iterator[Part]:
    """This rank's part of a set; classes are numbered as their ids rise. Raises ValueError for a picture that cannot be
    read."""
    ids = np.unique(index.label)
    for read in read_all(reading, index, batch, rank, world):
        labels = read.labels[read.valid].astype(np.int64)
        yield softmax(logits(read.images))[read.valid], np.searchsorted(ids, labels)


def append_leep(folder: Path, facts: Mapping[str, str | int | float]) -> None:
    """Add a line; returns when it is on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LEEP).open("ab") as file:
        file.write(canonical_json(dict(facts)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
