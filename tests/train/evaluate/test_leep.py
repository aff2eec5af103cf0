"""LEEP: known values, laws, and the verb that measures it."""

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import sixfold
from tests.support.small_data_set import write_data_set
from train.evaluate.leep import Part, joint_of, log_sum, softmax

Theta = npt.NDArray[np.float64]


def leep(parts: Callable[[], Iterable[Part]], num_classes: int, num_outputs: int) -> float:
    total, n = log_sum(parts(), joint_of(parts(), num_classes, num_outputs))
    return total / n


def whole(theta: Theta, labels: npt.NDArray[np.int64]) -> Callable[[], list[Part]]:
    return lambda: [(theta, labels)]


def value(theta: Theta, labels: npt.NDArray[np.int64]) -> float:
    return leep(whole(theta, labels), int(labels.max()) + 1, theta.shape[1])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Theta, npt.NDArray[np.int64]]:
    """Random probabilities of 2 to 40 pictures for 1 to 6 outputs, and labels of 1 to 5 classes."""
    seed = draw(st.integers(0, 2**32 - 1))
    num, outputs, classes = draw(st.integers(2, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rng = np.random.default_rng(seed)
    sharpness = draw(st.sampled_from([0.1, 1.0, 8.0]))
    return softmax(sharpness * rng.normal(size=(num, outputs))), rng.integers(0, classes, num)


def entropy_given_output(theta: Theta, labels: npt.NDArray[np.int64]) -> float:
    """Of the label, given the output, in the joint written out by hand."""
    joint = np.array([theta[labels == y].sum(0) / len(labels) for y in range(labels.max() + 1)])
    of_output = np.broadcast_to(joint.sum(0), joint.shape)
    return -float(sum(p * math.log(p / q) for p, q in zip(joint.ravel(), of_output.ravel(), strict=True) if p > 0))


def test_a_net_that_tells_every_class_has_exactly_zero() -> None:
    labels = np.array([0, 1, 2, 2, 1, 0, 0])
    assert value(np.eye(5)[np.array([3, 0, 4])[labels]], labels) == 0.0


def test_a_net_that_tells_nothing_has_the_mean_log_of_the_classes_shares() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2])
    shares = [0.6] * 6 + [0.3] * 3 + [0.1]
    expected = math.fsum(map(math.log, shares)) / 10  # minus the entropy of the labels
    assert value(np.full((10, 4), 0.25), labels) == pytest.approx(expected, abs=1e-12)


def test_two_pictures_that_are_told_in_part_have_the_value_worked_out_by_hand() -> None:
    theta = np.array([[0.75, 0.25], [0.25, 0.75]])
    expected = math.log(0.75 * 0.75 + 0.25 * 0.25)  # P(y|z) is theta itself
    assert value(theta, np.array([0, 1])) == pytest.approx(expected, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_it_lies_between_minus_the_entropy_of_the_label_given_the_output_and_zero(
    case: tuple[Theta, npt.NDArray[np.int64]],
) -> None:
    """The lower bound is Jensen's inequality."""
    assert -entropy_given_output(*case) - 1e-12 <= value(*case) <= 1e-12


@settings(max_examples=50, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_names_and_order_do_not_count(case: tuple[Theta, npt.NDArray[np.int64]], draw: random.Random) -> None:
    """Of outputs, classes and pictures; neither does each picture there twice."""
    theta, labels = case
    wanted = value(theta, labels)
    classes = int(labels.max()) + 1
    outputs, new, order = (draw.sample(range(n), n) for n in (theta.shape[1], classes, len(labels)))
    assert value(theta[:, outputs], labels) == pytest.approx(wanted, abs=1e-12)
    renamed = np.array(new)[labels]
    assert leep(whole(theta, renamed), classes, theta.shape[1]) == pytest.approx(wanted, abs=1e-12)
    assert value(theta[order], labels[order]) == pytest.approx(wanted, abs=1e-12)
    assert value(np.tile(theta, (2, 1)), np.tile(labels, 2)) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(1, 7))
def test_parts_and_ranks_give_what_the_whole_gives(case: tuple[Theta, npt.NDArray[np.int64]], size: int) -> None:
    theta, labels = case
    classes = int(labels.max()) + 1

    def parts(first: int = 0, step: int = 1) -> Iterator[Part]:
        for start in range(first * size, len(labels), step * size):
            yield theta[start : start + size], labels[start : start + size]

    assert leep(parts, classes, theta.shape[1]) == pytest.approx(value(theta, labels), abs=1e-12)
    joint = sum(joint_of(parts(rank, 3), classes, theta.shape[1]) for rank in range(3))
    assert isinstance(joint, np.ndarray)
    sums = [log_sum(parts(rank, 3), joint) for rank in range(3)]
    mean = sum(total for total, _ in sums) / sum(num for _, num in sums)
    assert mean == pytest.approx(value(theta, labels), abs=1e-12)


@pytest.mark.parametrize("wrong", [[[math.nan, 1.0]], [[-0.1, 1.1]], [[0.0, 0.0]]], ids=["nan", "negative", "nothing"])
def test_what_is_no_probability_is_refused(wrong: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="found numbers that are no probabilities, expected the softmax"):
        value(np.array(wrong), np.array([0]))


def test_the_verb_measures_a_net_on_a_set_of_other_classes_and_keeps_the_figure(tmp_path: Path) -> None:
    """The net knows pips and shapes; accuracy on digits would mean nothing."""
    write_data_set(tmp_path / "set", num_shards=1, num_slots=10, num_rejected=0)
    out = tmp_path / "out"
    words = ["evaluate", "sandbox/models/pretrained", "--on", str(tmp_path / "set"), "--leep", "--out", str(out)]
    tried = CliRunner().invoke(sixfold.command_line(), [*words, "--dry-run"])
    assert "10 pictures of 5 classes, 16 outputs" in tried.output
    assert not out.exists()
    done = CliRunner().invoke(sixfold.command_line(), words)
    assert done.exit_code == 0, done.output
    row = json.loads((out / "leep.jsonl").read_text())
    assert (row["n"], row["classes"], row["outputs"]) == (10, 5, 16)
    assert -math.log(5) < row["leep"] < 0
    assert f"LEEP {row['leep']:.4f} nats; 10 pictures of 5 classes, 16 outputs" in done.output
