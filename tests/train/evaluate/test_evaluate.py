"""Evaluation: each sample counts once, the right outputs compete, and no test set chooses a checkpoint."""

import inspect
import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cluster.ranks.group import Ranks
from cluster.ranks.host import free_port
from cluster.ranks.place import find_place
from cluster.recipes.load import dump_recipe, load_recipe
from shards.disk.home import home
from shards.set.manifest import read_table, write_subset
from shards.stream.read_all import read_all
from shards.stream.spec import DomainSpec, EvalSpec
from tests.support import warm
from tests.support.rank_environment import rank_environment
from tests.support.small_data_set import write_data_set, write_foreign
from tests.support.small_training import measured, small_recipe, write_sets
from tests.support.training_results import result
from train.evaluate.counts import AnswerKey, Counts, count, count_batches
from train.evaluate.data_check import open_domains
from train.evaluate.evaluate import (
    EvaluateSpec,
    Moment,
    RunFacts,
    SetSpec,
    Validation,
    answer_key,
    make_result,
    open_sets,
    read_label_map,
    select,
)
from train.evaluate.results import read_results, write_results
from train.model.normalisation import IMAGENET
from train.recipe import TrainRecipe

REPO = home()
CPU = torch.device("cpu")
torch.set_num_threads(1)


def key_of(classes="all", present=range(4), num_outputs=4, labels=None) -> AnswerKey:
    return answer_key(SetSpec(source="set", classes=classes), present, num_outputs, labels)


def right(scores, labels, key) -> tuple[list[int], list[int]]:
    found = count(np.array(scores, float), np.array(labels), key)
    return found.right.tolist(), found.right_top5.tolist()


@dataclass
class Batch:
    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray


# hand-made scores


def test_the_highest_score_is_top_1_and_each_class_is_counted_by_itself():
    scores = [[9, 1, 2, 3], [1, 9, 2, 3], [9, 1, 2, 3], [0, 1, 2, 3]]
    found = count(np.array(scores, float), np.array([0, 1, 1, 3]), key_of())
    assert found.seen.tolist() == [1, 2, 0, 1]
    assert found.right.tolist() == [1, 1, 0, 1]
    assert (found.n, found.top1) == (4, 0.75)


def test_top_5_takes_the_five_highest_scores():
    key = key_of(present=range(8), num_outputs=8)
    scores = [[8, 7, 6, 5, 4, 3, 2, 1]] * 8
    assert right(scores, range(8), key) == ([1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0])


def test_of_equal_scores_the_lower_output_comes_first():
    assert right([[5, 5, 1, 1], [5, 5, 1, 1]], [0, 1], key_of())[0] == [1, 0, 0, 0]
    same = key_of(present=range(7), num_outputs=7)
    assert right([[0] * 7] * 7, range(7), same) == ([1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_wrong_and_counted(bad):
    scores = np.array([[bad, 1, 2, 3], [9, 1, 2, 3]])
    found = count(scores, np.array([0, 0]), key_of())
    assert (found.right.tolist(), found.right_top5.tolist(), found.not_finite) == ([1, 0, 0, 0], [1, 0, 0, 0], 1)
    assert count(np.full((3, 4), bad), np.array([0, 1, 2]), key_of()).top5 == 0.0


def test_a_mask_of_200_classes_lets_only_these_outputs_compete():
    rng = np.random.default_rng(7)
    own = sorted(rng.permutation(1000)[:200].tolist())
    labels = rng.choice(own, 300)
    scores = rng.normal(size=(300, 1000))
    scores[:, [c for c in range(1000) if c not in own]] += 100  # would win if they were let
    key = key_of("own", own, 1000)
    listed = key_of(tuple(own), own, 1000)
    expected = (np.array(own)[scores[:, own].argmax(axis=1)] == labels).sum()
    assert count(scores, labels, key).right.sum() == expected > 0
    assert count(scores, labels, listed).right.sum() == expected
    assert count(scores, labels, key_of("all", own, 1000)).right.sum() == 0


def test_a_score_that_is_not_finite_outside_the_mask_does_not_count():
    found = count(np.array([[np.nan, 1.0, 2.0, np.inf]]), np.array([2]), key_of((1, 2), (1, 2)))
    assert (found.right.sum(), found.not_finite) == (1, 0)


def test_a_label_map_accepts_any_of_several_outputs_and_leaves_unknown_classes_out():
    key = key_of("all", (10, 11, 12), 6, {10: (1,), 11: (2, 5)})
    scores = np.eye(6)[[1, 2, 5, 0, 3]]
    found = count(scores, np.array([10, 11, 11, 11, 12]), key)
    assert found.ids == (10, 11)
    assert (found.right.tolist(), found.seen.tolist(), found.left_out) == ([1, 2], [1, 3], 1)


def test_top_k_is_that_of_a_stable_sort():
    seed = random.randrange(10**9)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size=(500, 12)).astype(float)  # full of ties
    labels = rng.integers(0, 12, 500)
    order = np.argsort(-scores, axis=1, kind="stable")
    found = count(scores, labels, key_of(present=range(12), num_outputs=12))
    assert found.right.sum() == (order[:, 0] == labels).sum()
    assert found.right_top5.sum() == (order[:, :5] == labels[:, None]).any(axis=1).sum()


def test_top_k_is_that_of_scikit_learn():
    from sklearn.metrics import accuracy_score, top_k_accuracy_score

    rng = np.random.default_rng(3)
    scores, labels = rng.normal(size=(400, 9)), rng.integers(0, 9, 400)
    found = count(scores, labels, key_of(present=range(9), num_outputs=9))
    assert found.top1 == accuracy_score(labels, scores.argmax(axis=1))
    assert found.top5 == top_k_accuracy_score(labels, scores, k=5)


# each sample once


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_counts_do_not_depend_on_batch_and_number_of_ranks(n, batch, world, seed):
    """Law: for every way to cut n samples over ranks and padded batches the summed counts are those of one pass."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(n, 4)), rng.integers(0, 4, n)
    some = range(3) if labels.min() < 3 else range(4)  # samples of class 3 are left out
    whole = count(scores, labels, key_of(present=some))
    total = Counts.none(whole.ids, n)
    for rank in range(world):
        batches = []
        for start in range(rank * batch, n, world * batch):
            chosen = np.arange(start, min(start + batch, n))
            padded = np.concatenate([chosen, np.zeros(batch - len(chosen), int)])
            batches.append(Batch(padded, labels[padded], np.arange(batch) < len(chosen)))
        total = total + counted(batches, lambda images: scores[images], key_of(present=some), n, rank, world)
    assert total.as_array().tolist() == whole.as_array().tolist()
    assert total.n + total.left_out == n
    known = np.isin(labels, some)
    assert total.right_pictures is not None
    assert total.right_pictures.tolist() == (scores.argmax(axis=1) == labels)[known].tolist()


def test_one_pass_counts_every_way_to_score_apart():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(9, 4)), rng.integers(0, 4, 9)
    batches = [Batch(np.arange(9), labels, np.ones(9, bool))]
    both = count_batches(batches, lambda images: [scores[images], -scores[images]], key_of(), 9, num_ways=2)
    each = [counted(batches, lambda images, sign=sign: sign * scores[images], key_of(), 9) for sign in (1, -1)]
    assert [one.as_array().tolist() for one in both] == [one.as_array().tolist() for one in each]
    assert both[0].as_array().tolist() != both[1].as_array().tolist()


def test_a_rank_without_samples_counts_nothing():
    assert counted([], lambda images: images, key_of(), 5).as_array().sum() == 0


# sets of pictures


def brightest(images: np.ndarray) -> np.ndarray:
    """Scores of five classes from the pixels alone, so that a picture read twice or not at all would show."""
    means = images.astype(float).mean(axis=(1, 2))
    return np.concatenate([means, means[:, :2] * images[:, :4, :4, 0].mean(axis=(1, 2))[:, None] / 99], axis=1)


def counted(batches, scores, key, num_samples, rank=0, world=1):
    """The counts with one way to score."""
    [found] = count_batches(batches, lambda images: [scores(images)], key, num_samples, rank, world)
    return found


def sets_of(**tests) -> EvaluateSpec:
    return EvaluateSpec(crop_pct=1.0, batch=7, tests={name: SetSpec(**one) for name, one in tests.items()})


class Brightest(nn.Module):
    """`brightest` of normalised pictures, as a model."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not self.training
        self.shown.append(images)
        mean, std = torch.tensor(IMAGENET.mean).view(1, 3, 1, 1), torch.tensor(IMAGENET.std).view(1, 3, 1, 1)
        pixels = (images * std + mean).mul(255).round().to(torch.uint8)
        return torch.from_numpy(brightest(pixels.permute(0, 2, 3, 1).numpy()))


def test_every_sample_of_a_data_set_counts_once_for_any_batch_threads_and_world(tmp_path):
    source = str(write_data_set(tmp_path / "set", num_shards=3, num_slots=11).root)
    [one] = open_sets(sets_of(all={"source": source}), 5)
    assert (one.n, one.role, one.key.ids) == (33, "test", (0, 1, 2, 3, 4))
    found = []
    for batch, threads, world in ((7, 0, 1), (64, 2, 1), (1, 0, 2), (5, 2, 3), (33, 0, 4)):
        spec = EvalSpec(source=source, size_px=32, crop_pct=1.0, threads=threads)
        total = Counts.none(one.key.ids, one.n)
        for rank in range(world):
            batches = read_all(spec, one.opened.index, batch, rank, world)
            total += counted(batches, brightest, one.key, one.n, rank, world)
        found.append(total.as_array().tolist())
    assert all(counts == found[0] for counts in found)
    assert sum(found[0][:5]) == 33
    assert 0 < sum(found[0][5:10]) < 33


def test_a_model_sees_the_pictures_normalised_and_shown_as_the_recipe_says(tmp_path):
    write_sets(tmp_path)
    recipe = small_recipe(tmp_path, evaluate__crop_pct=1.0, evaluate__validation=None)
    [one] = open_sets(recipe.evaluate, 5)
    model = Brightest()
    with Ranks(find_place({})) as ranks:
        counts = measured(model, one, recipe, ranks)
    spec = EvalSpec(source=one.spec.source, size_px=32, crop_pct=1.0)
    batches = list(read_all(spec, one.opened.index, recipe.evaluate.batch))
    assert counts.as_array().tolist() == counted(batches, brightest, one.key, one.n).as_array().tolist()
    for seen, batch in zip(model.shown, batches, strict=True):
        expected = (batch.images / 255.0 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
        assert np.abs(seen.permute(0, 2, 3, 1).numpy() - expected)[batch.valid].max() < 1e-5
    assert model.training
    narrow = small_recipe(tmp_path, evaluate__crop_pct=0.5, evaluate__validation=None)
    with Ranks(find_place({})) as ranks:
        measured(model, one, narrow, ranks)
    assert not torch.equal(model.shown[0], model.shown[len(batches)])


def test_a_set_that_grew_or_was_relabelled_meanwhile_is_measured_as_it_was_opened(tmp_path):
    write_sets(tmp_path)
    recipe = small_recipe(tmp_path, evaluate__validation=None)
    [one] = open_sets(recipe.evaluate, 5)
    with Ranks(find_place({})) as ranks:
        before = measured(Brightest(), one, recipe, ranks).as_array().tolist()
        write_data_set(tmp_path / "more", num_shards=3)
        for file in (tmp_path / "more").glob("00002*"):
            shutil.copy(file, tmp_path / "held-out")
        assert measured(Brightest(), one, recipe, ranks).as_array().tolist() == before
        exchange(tmp_path / "held-out", lambda row: {**row, "class_id": (row["class_id"] + 1) % 5})
        assert measured(Brightest(), one, recipe, ranks).as_array().tolist() == before


def exchange(folder: Path, change) -> None:
    """Another set of as many samples in its place."""
    shutil.rmtree(folder)
    write_data_set(folder, num_shards=2, num_slots=10, change=lambda shard, index, row: change(row))


def test_a_set_of_equal_size_that_was_exchanged_meanwhile_is_refused(tmp_path):
    write_sets(tmp_path)
    recipe = small_recipe(tmp_path, evaluate__validation=None)
    [one] = open_sets(recipe.evaluate, 5)
    exchange(tmp_path / "held-out", lambda row: {**row, "caption": "a picture of something else " * 40})
    with Ranks(find_place({})) as ranks, pytest.raises(ValueError, match="every sample of a test set is needed"):
        measured(Brightest(), one, recipe, ranks)


COUNTING_RANK = """
import json, os, sys
from pathlib import Path
from cluster.recipes.load import load_recipe
from tests.train.evaluate.test_evaluate import CPU, Brightest
from train.evaluate.evaluate import open_sets
from cluster.ranks.group import Ranks
from cluster.ranks.place import find_place
from tests.support.small_training import measured
from train.recipe import TrainRecipe
recipe = load_recipe(Path(sys.argv[1]), TrainRecipe)
[one] = open_sets(recipe.evaluate, 5)
with Ranks(find_place(os.environ)) as ranks:
    ranks.open(CPU, 60)
    print(json.dumps(measured(Brightest(), one, recipe, ranks).as_array().tolist()))
"""


def counting_ranks(*recipes: Path) -> list[tuple[str, str]]:
    """A process for each recipe, all ranks of one job: (stdout, stderr)."""
    port = free_port()
    children = [
        warm.start(["-c", COUNTING_RANK, str(recipe)], environment=rank_environment(rank, len(recipes), port))
        for rank, recipe in enumerate(recipes)
    ]
    try:
        return [child.communicate(timeout=280) for child in children]
    finally:
        for child in children:
            child.kill()


def test_ranks_that_opened_different_sets_of_equal_size_are_refused(tmp_path):
    write_sets(tmp_path)
    for name in ("held-out", "real"):
        tests = {"one": {"source": str(tmp_path / name)}}
        recipe = small_recipe(tmp_path, evaluate__validation=None, evaluate__tests=tests)
        (tmp_path / f"{name}.yaml").write_text(dump_recipe(recipe))
    said = counting_ranks(tmp_path / "held-out.yaml", tmp_path / "real.yaml")
    assert not any(output for output, _ in said)
    line = re.compile("one: found a set with the digest .* on another, expected one set")
    assert any(line.search(errors) for _, errors in said), said


def test_two_processes_count_what_one_counts(tmp_path):
    write_sets(tmp_path)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(small_recipe(tmp_path, evaluate__validation=None)))
    said = counting_ranks(*[tmp_path / "recipe.yaml"] * 2)
    recipe = load_recipe(tmp_path / "recipe.yaml", TrainRecipe)
    [one] = open_sets(recipe.evaluate, 5)
    with Ranks(find_place({})) as ranks:
        alone = measured(Brightest(), one, recipe, ranks).as_array().tolist()
    assert [json.loads(output.splitlines()[-1]) for output, _ in said] == [alone, alone]


def test_classes_without_an_output_and_missing_sets_are_refused_before_training(tmp_path):
    write_data_set(tmp_path / "set")
    with pytest.raises(ValueError, match=r"class id 4 for output 4, expected 0\.\.3"):
        open_sets(sets_of(all={"source": str(tmp_path / "set")}), 4)
    with pytest.raises(ValueError, match="found no folder"):
        open_sets(sets_of(all={"source": str(tmp_path / "gone")}), 5)


def test_a_manifest_of_labels_maps_the_ids_of_a_set_to_outputs_and_counts_what_it_leaves_out(tmp_path):
    write_data_set(tmp_path / "set")
    (tmp_path / "map.json").write_text(json.dumps({"0": 1, "1": [0, 2]}))
    spec = sets_of(odd={"source": str(tmp_path / "set"), "labels": tmp_path / "map.json", "classes": "own"})
    [one] = open_sets(spec, 5)
    assert one.key.competes_C.tolist() == [True, True, True, False, False]
    batches = read_all(EvalSpec(source=one.spec.source, size_px=32, crop_pct=1.0), one.opened.index, 7)
    counts = counted(batches, brightest, one.key, one.n)
    assert (counts.n, counts.left_out, counts.ids) == (8, 12, (0, 1))


def test_tests_that_share_samples_with_the_validation_set_are_refused(tmp_path):
    store = write_data_set(tmp_path / "set")
    table = read_table(store, [0, 1], ["uid", "key", "shard", "status"])
    kept = table.filter(pc.equal(table["status"], "success"))
    for name, first, num in (("val", 0, 8), ("test", 8, 12), ("both", 7, 5)):
        write_subset(store, name, kept.slice(first, num), {"rule": name})
    source = str(tmp_path / "set")
    validation = SetSpec(source=source, subset="val")
    good = EvaluateSpec(validation=validation, tests={"t": SetSpec(source=source, subset="test")})
    assert [(one.name, one.role, one.n) for one in open_sets(good, 5)] == [
        ("validation", "validation", 8),
        ("t", "test", 12),
    ]
    bad = EvaluateSpec(validation=validation, tests={"t": SetSpec(source=source, subset="both")})
    with pytest.raises(
        ValueError, match=r"evaluate\.tests\.t .*: found 1 samples that are also in evaluate\.validation "
    ):
        open_sets(bad, 5)


def test_a_set_has_whole_views_of_each_thing(tmp_path):
    write_data_set(tmp_path / "set")
    [one] = open_sets(EvaluateSpec(tests={"t": SetSpec(source=str(tmp_path / "set"))}), 5)
    views = next(number for number in range(2, 100) if one.n % number)
    spec = EvaluateSpec(tests={"t": SetSpec(source=str(tmp_path / "set"), views=views)})
    with pytest.raises(
        ValueError, match=rf"evaluate\.tests\.t\.views: found {views} beside {one.n} pictures, expected"
    ):
        open_sets(spec, 5)


@pytest.mark.parametrize("way", ["copy", "link", "one shard"])
def test_a_copy_of_the_validation_set_or_a_link_to_it_is_no_test(tmp_path, way):
    write_data_set(tmp_path / "val")
    if way == "link":
        (tmp_path / "test").symlink_to(tmp_path / "val")
    else:
        shutil.copytree(tmp_path / "val", tmp_path / "test")
    if way == "one shard":
        for path in (tmp_path / "test").glob("00001*"):
            path.unlink()
    spec = EvaluateSpec(
        validation=SetSpec(source=str(tmp_path / "val")), tests={"t": SetSpec(source=str(tmp_path / "test"))}
    )
    with pytest.raises(
        ValueError, match=r"samples that are also in evaluate\.validation .*/val\), expected none"
    ) as caught:
        open_sets(spec, 5)
    assert "evaluate.tests.t (" in str(caught.value)
    assert ("found 10 samples" in str(caught.value)) == (way == "one shard")


def test_a_copy_of_tars_that_others_wrote_is_found_by_its_index(tmp_path):
    for name in ("val", "test"):
        write_foreign(tmp_path / name, [0, 1, 2])
    spec = EvaluateSpec(
        validation=SetSpec(source=str(tmp_path / "val")), tests={"t": SetSpec(source=str(tmp_path / "test"))}
    )
    with pytest.raises(ValueError, match=r"found 3 samples that are also in evaluate\.validation"):
        open_sets(spec, 5)


@pytest.mark.parametrize("role", ["validation", "test"])
def test_pictures_that_are_trained_on_measure_nothing(tmp_path, role):
    write_data_set(tmp_path / "real")
    shutil.copytree(tmp_path / "real", tmp_path / "again")
    domains = open_domains([DomainSpec(name="real", source=str(tmp_path / "real"), quota=1)], None)
    one = SetSpec(source=str(tmp_path / "again"))
    spec = EvaluateSpec(validation=one) if role == "validation" else EvaluateSpec(tests={"t": one})
    field = "evaluate.validation" if role == "validation" else r"evaluate\.tests\.t"
    with pytest.raises(ValueError, match=rf"{field} .*: found 20 samples that are also in data\.domains\.real "):
        open_sets(spec, 5, domains=domains)


def test_one_set_may_be_two_tests_and_two_sets_may_share_shards_if_they_share_no_sample(tmp_path):
    store = write_data_set(tmp_path / "set")
    table = read_table(store, [0, 1], ["uid", "key", "shard", "status"])
    samples = table.filter(pc.equal(table["status"], "success"))
    write_subset(store, "some", samples.slice(0, 5), {"rule": "some"})
    write_subset(store, "rest", samples.slice(5), {"rule": "rest"})
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    rest = {"source": str(tmp_path / "copy"), "subset": "rest"}
    spec = sets_of(all=rest, own={**rest, "classes": "own"})
    some = SetSpec(source=str(tmp_path / "set"), subset="some")
    found = open_sets(spec.model_copy(update={"validation": some}), 5)
    assert [(one.name, one.n) for one in found] == [("validation", 5), ("all", 15), ("own", 15)]


# lines


def test_counts_become_a_whole_result_line(tmp_path):
    counts = count(np.eye(4)[[0, 1, 2, 2]], np.array([0, 1, 2, 3]), key_of())
    facts = RunFacts("run", "ab" * 32, 3, {"real": "cd"}, "ef", {"torch": "2"})
    line = make_result(facts, Moment(7, "ema", 64, 10.0, 0.5, 1.5), "real-test", "test", counts, True)
    assert (line.top1, line.top5, line.per_class) == (0.75, 1.0, {0: (1, 1), 1: (1, 1), 2: (1, 1), 3: (0, 1)})
    assert line.right_bits is not None
    assert line.right_bits.tolist() == [True, True, True, False]
    write_results(tmp_path / "results.jsonl", [line])
    assert read_results(tmp_path / "results.jsonl").results == (line,)


# choosing


def test_the_best_validation_step_is_selected_and_the_earliest_of_equals():
    assert select([Validation(10, 0.4), Validation(20, 0.6), Validation(30, 0.6), Validation(40, 0.5)]) == 20
    assert select([Validation(30, 0.6), Validation(20, 0.6)]) == 20
    assert select([Validation(10, float("nan")), Validation(20, 0.1)]) == 20


def test_no_test_set_can_choose_a_checkpoint():
    """Selection has one argument, a list of validation accuracies; a line of a test set cannot become one."""
    assert [str(p.annotation) for p in inspect.signature(select).parameters.values()] == [
        "collections.abc.Sequence[train.evaluate.evaluate.Validation]"
    ]
    with pytest.raises(ValueError, match="found a result on the test set 'real-test'"):
        Validation.of(result(role="test"))
    with pytest.raises(TypeError, match="found Result"):
        select([result(role="test")])
    assert Validation.of(result(role="validation", step=5)).step == 5


def test_a_recipe_cannot_name_one_set_for_validation_and_test():
    one = SetSpec(source="out/real-val")
    with pytest.raises(ValueError, match="found the validation set"):
        EvaluateSpec(validation=one, tests={"val": SetSpec(source="out/real-val", classes="own")})
    assert EvaluateSpec(validation=one, tests={"t": SetSpec(source="out/real-val", subset="half")}).tests


def test_without_a_finite_validation_result_nothing_is_selected():
    for history in ([], [Validation(1, float("nan"))]):
        with pytest.raises(ValueError, match="no validation result"):
            select(history)


# refusals


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: key_of(present=(0, 4)), "class id 4 for output 4, expected 0..3"),
        (lambda: key_of(present=()), "no sample of a class that the model knows"),
        (lambda: key_of((0, 9)), "output 9 among `classes`"),
        (lambda: key_of((0, 1)), "samples of class 2, whose outputs do not compete"),
        (lambda: key_of(labels={7: (1,)}), "no sample of a class"),
    ],
)
def test_a_set_that_does_not_fit_the_model_is_refused_in_one_line(build, words):
    with pytest.raises(ValueError, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_label_map_is_read_from_json(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"3": 5, "4": [1, 2], "6": []}))
    assert read_label_map(path) == {3: (5,), 4: (1, 2), 6: ()}


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"1": "x"}', '{"1": true}', '{"1": 1.5}', "{", "[" * 9999])
def test_a_bad_label_map_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a JSON object") as caught:
        read_label_map(path)
    assert "\n" not in str(caught.value)
