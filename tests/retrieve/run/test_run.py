"""A retrieved data set from recipe to shards: the right images, none that must not be there, the same ones again."""

import json
import os
import random
import re
import shutil
import time
import uuid
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.process.stop_flag import StopFlag
from cluster.recipes.load import dump_recipe
from docs.bench.retrieved import truth_of
from gen.make.outcome import MakeOutcome
from gen.model.clip import Clip, ClipSpec
from retrieve.make.candidates import CANDIDATES
from retrieve.pool.images import PoolImages
from retrieve.pool.pool import Pool, open_pool
from retrieve.pool.spec import PoolSpec
from retrieve.run.recipe import RetrieveRecipe, changes_of, identity, knows_tars
from retrieve.run.run import look, run
from retrieve.run.search import best_of_each_row
from sandbox import captions, pool, sets
from sandbox.world import CLASS_NAMES
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg
from shards.disk.store import open_for_reading
from shards.set.manifest import read_subset, read_table, scan_records
from sixfold import command_line
from tests.support import warm
from tests.support.small_pool import write_vectors

CLIP = ClipSpec(model=str(home() / "sandbox" / "models" / "clip"), device="cpu")
ROWS = 600


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 600 rows with vectors, and the test set that some of them are copies of."""
    folder = tmp_path_factory.mktemp("world")
    rows = list(captions.pool_rows(ROWS, test_scenes=sets.set_scenes("real-test")))
    (folder / "pool").mkdir()
    pool.write_shard(folder / "pool", 0, rows)
    sets.write_set("real-test", folder / "real-test")
    opened = open_pool(PoolSpec(source=folder / "pool"))
    images = PoolImages(opened)
    pictures = [decode_jpeg(images.read(place)) for place in images.places(range(ROWS))]
    write_vectors(folder / "pool" / "img_emb" / "img_emb_0.npy", Clip.load(CLIP).embed_images(pictures))
    return folder


def recipe_of(world: Path, **changes: object) -> RetrieveRecipe:
    """Four images a class; the meaning is given."""
    plain = {
        "name": "small",
        "classes": {"source": "sandbox", "per_class": 4},
        "lexicon": "sandbox",
        "meanings": {"choose": "given", "given": {name: f"{name}, the handwritten numeral" for name in CLASS_NAMES}},
        "pool": {"source": str(world / "pool"), "clip": CLIP.model_dump()},
        "search": {"captions": {"match": "word"}, "templates": ["{name}"]},
        "filter": {"top": 0.5},
        "dedup": {"against": [str(world / "real-test")], "near": 0.9},
        "most": 3,
        "size_px": 64,
        "shards": {"samples_per_shard": 20},
        "cluster": {"in_process": True},
    }
    return RetrieveRecipe.model_validate({**plain, **changes})


def retrieved(recipe: RetrieveRecipe, out: Path, scale: int = 1, said: list[str] | None = None) -> MakeOutcome:
    return run(recipe, Fraction(scale), str(out), home(), StopFlag(), say=[].append if said is None else said.append)


def rows_of(out: Path) -> list[dict[str, object]]:
    """Of all shards, the rejected draws included."""
    store = open_for_reading(str(out))
    found: list[dict[str, object]] = read_table(store, scan_records(store)).to_pylist()
    return found


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    assert retrieved(recipe_of(world), out, 2).exit_code == 0
    return out


def test_each_class_has_its_count_and_most_images_show_what_was_meant(world: Path, whole: Path) -> None:
    truth = truth_of(str(whole), world / "pool")
    assert np.bincount([row["asked"] for row in truth]).tolist() == [8] * 10
    right = [row["sense"] == "numeral" and row["class_id"] == row["asked"] for row in truth]
    bare = [row["class_id"] == row["asked"] for row in truth]
    assert np.mean(right) > 0.7  # half of what the captions find shows pips
    assert np.mean(bare) > 0.9


def test_no_image_is_flagged_and_none_is_a_copy_of_a_test_image(world: Path, whole: Path) -> None:
    truth = truth_of(str(whole), world / "pool")
    assert max(row["punsafe"] for row in truth) <= 0.5
    assert [row["shows"] for row in truth if row["shows"] >= 0] == []


def test_no_image_is_there_twice(world: Path, whole: Path) -> None:
    hashes = [row["sha256"] for row in truth_of(str(whole), world / "pool")]
    assert len(hashes) == len(set(hashes))


def test_copies_of_a_test_image_all_go_though_they_are_copies_of_each_other(world: Path, tmp_path: Path) -> None:
    """If the first of two equal pictures goes for its test image, the second one does not take its place."""
    rows = list(captions.pool_rows(ROWS, test_scenes=sets.set_scenes("real-test")))
    copies = [row for row in rows if row.kind == "near_duplicate" and row.punsafe < 0.5]
    assert copies
    (tmp_path / "pool").mkdir()
    pool.write_shard(tmp_path / "pool", 0, [*copies, *copies, *rows[:200]])
    changes = {"pool": {"source": str(tmp_path / "pool")}, "filter": {"top": None}, "search": {}}
    retrieved(recipe_of(world, **changes), tmp_path / "out")
    found = pq.read_table(tmp_path / "out" / CANDIDATES)["row"].to_pylist()
    assert min(found) >= 2 * len(copies)


def test_the_same_call_again_makes_nothing_and_a_smaller_scale_is_contained(world: Path, whole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.tar")}
    again = retrieved(recipe_of(world), whole, 2)
    assert (again.made_units, again.exit_code) == (0, 0)
    assert retrieved(recipe_of(world), whole, 1).made_units == 0
    assert {path.name: path.stat().st_mtime_ns for path in whole.glob("*.tar")} == before
    store = open_for_reading(str(whole))
    one, two = (set(read_subset(store, name)[0]["uid"].to_pylist()) for name in ("1x", "2x"))
    assert (len(one), len(two)) == (40, 80)
    assert one < two


def test_another_run_gives_the_same_bytes(world: Path, whole: Path, tmp_path: Path) -> None:
    retrieved(recipe_of(world), tmp_path / "out", 2)
    for path in whole.glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_another_recipe_is_refused_with_what_differs(world: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match=r"made by another recipe or from other data \(filter.top: 0.5 before, 0.4"):
        retrieved(recipe_of(world, filter={"top": 0.4}), whole)
    with pytest.raises(ValueError, match=r"found 4x, expected at most 3x"):
        retrieved(recipe_of(world), whole, 4)
    with pytest.raises(ValueError, match=r"found 4x, expected at most 3x"):
        look(recipe_of(world), Fraction(4), StopFlag(), print)


def test_a_pool_that_moved_is_the_same(world: Path, whole: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(world / "pool")
    changes = {"pool": {"source": str(moved), "clip": CLIP.model_dump()}}
    assert retrieved(recipe_of(world, **changes), whole, 2).made_units == 0


def test_a_block_list_may_grow_before_a_data_set_does_but_no_table_may_change(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    """`whole` has the same recipe, without lists: what it has more at 2x is to come here."""
    (tmp_path / "block.txt").write_text("https://example.org/other.jpg\n")
    pool = {"source": str(world / "pool"), "clip": CLIP.model_dump(), "block": [str(tmp_path / "block.txt")]}
    recipe, out = recipe_of(world, pool=pool), tmp_path / "out"
    assert retrieved(recipe, out).exit_code == 0
    first, second = rows_of(out), rows_of(whole)
    gone = next(row["url"] for row in second if row["uid"] not in {one["uid"] for one in first})
    (tmp_path / "block.txt").write_text(f"https://example.org/other.jpg\n{gone}\n")
    assert retrieved(recipe, out, 2).exit_code == 0
    grown = rows_of(out)
    assert gone not in [row["url"] for row in grown]
    assert [row["status"] for row in grown if row["status"] != "success"] == ["blocked"]
    assert [row for row in grown if row["uid"] in {one["uid"] for one in first}] == first
    shutil.copytree(world / "pool", tmp_path / "pool")
    path = tmp_path / "pool" / "00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "TEXT", pa.array([f"{text}!" for text in table["TEXT"].to_pylist()])), path)
    with pytest.raises(ValueError, match=r"made by another recipe or from other data \(pool_digest: "):
        retrieved(recipe_of(world, pool={**pool, "source": str(tmp_path / "pool")}), out, 2)


def test_an_output_whose_version_counted_the_lines_of_block_lists_goes_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "block.txt").write_text("https://example.org/other.jpg\n")
    block = {"block": [str(tmp_path / "block.txt")]}
    recipe = recipe_of(world, pool={"source": str(world / "pool"), "clip": CLIP.model_dump(), **block})
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "digest_without_lists", Pool.digest)
        assert retrieved(recipe, tmp_path / "out").exit_code == 0
    assert retrieved(recipe, tmp_path / "out").made_units == 0


def test_lost_candidates_are_searched_for_again(world: Path, whole: Path) -> None:
    data = (whole / CANDIDATES).read_bytes()
    (whole / CANDIDATES).unlink()
    said: list[str] = []
    assert retrieved(recipe_of(world), whole, 2, said).exit_code == 0
    assert (whole / CANDIDATES).read_bytes() == data
    assert any("written again: candidates.parquet" in line for line in said)


def test_a_class_with_too_few_images_is_reported_short(world: Path, tmp_path: Path) -> None:
    outcome = retrieved(recipe_of(world, filter={"cap": 3}), tmp_path / "out")
    assert outcome.exit_code == 3
    assert outcome.rejected == {"no_candidate": 10}
    assert "no image after all draws for 10 samples" in outcome.sentence()


def test_a_dry_run_says_what_each_step_left_and_who_is_short(world: Path) -> None:
    text = look(recipe_of(world, filter={"cap": 3}), Fraction(1), StopFlag(), print)
    for what in ("rows of the pool", "found", "in_test_set", "over_cap", "short: 0 zero 3 of 4"):
        assert what in text


def test_the_search_says_what_it_left_out_and_why(whole: Path) -> None:
    counts = json.loads((whole / "_meta" / "search.json").read_text())
    assert counts["rows of the pool"] == ROWS
    assert {"kept", "low_score", "in_test_set"} <= counts["reasons"].keys()
    assert sum(counts["reasons"].values()) == counts["of one class each"]


def test_images_are_found_by_their_vectors_without_a_word_of_their_captions(world: Path, tmp_path: Path) -> None:
    search = {"routes": ["image"], "templates": ["{name}"], "per_query": 30}
    retrieved(recipe_of(world, search=search, filter={"top": None}), tmp_path / "out")
    truth = truth_of(str(tmp_path / "out"), world / "pool")
    right = [row["sense"] == "numeral" and row["class_id"] == row["asked"] for row in truth]
    assert len(truth) >= 30
    assert np.mean(right) > 0.4  # by chance 0.05
    assert max(row["punsafe"] for row in truth) <= 0.5


def test_every_template_is_a_query_of_its_own(world: Path) -> None:
    numbers = []
    for templates in (["{name}"], ["{name}", "{name}, the face of a die"]):
        search = {"routes": ["image"], "templates": templates, "per_query": 5}
        text = look(recipe_of(world, search=search, filter={"top": None}), Fraction(1), StopFlag(), print)
        numbers.append(int(re.search(r"^found +(\d+)$", text, re.MULTILINE)[1]))  # type: ignore[index]
    assert numbers[0] == 50
    assert 60 < numbers[1] <= 100


def test_pictures_whose_vectors_are_one_are_there_once_though_no_picture_is_read(world: Path, tmp_path: Path) -> None:
    closest = []
    for above in (None, 0.94):
        out = tmp_path / str(above)
        retrieved(recipe_of(world, dedup={"near": None, "near_vectors": above}, filter={"top": None}), out)
        rows = pq.read_table(out / CANDIDATES)["row"].to_numpy()
        vectors = open_pool(PoolSpec(source=world / "pool")).image.take(rows)  # type: ignore[union-attr]
        cosines = vectors @ vectors.T
        closest.append(float(cosines[~np.eye(len(rows), dtype=bool)].max()))
    assert closest[0] > 0.95
    assert closest[1] <= 0.9401


def test_lowest_scores_take_the_place_of_the_share_and_both_are_refused(world: Path, whole: Path) -> None:
    for lowest in ({"score": 0.9}, {"by_class": {3: 0.9}}):
        assert recipe_of(world, filter=lowest).filter.top is None
        with pytest.raises(ValueError, match=r"found top and (score|by_class), expected a share or lowest scores"):
            recipe_of(world, filter={"top": 0.3, **lowest})
    assert recipe_of(world, filter={"top": None, "score": 0.9}).filter.score == 0.9
    assert recipe_of(world, filter={"score": None, "by_class": {}}).filter.top == 0.3
    text = look(recipe_of(world, filter={"score": 0.99}, dedup={"near": None}), Fraction(1), StopFlag(), print)
    assert re.search(r"^ +low_score +\d", text, re.MULTILINE)
    assert "short: 0 zero 0 of 4" in text


def test_a_lowest_score_of_no_class_is_refused(world: Path) -> None:
    with pytest.raises(
        ValueError, match=r"filter\.by_class: found 10, expected the id of a class of sandbox, such as 0"
    ):
        look(recipe_of(world, filter={"by_class": {3: 0.2, 10: 0.2}}), Fraction(1), StopFlag(), print)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), unique=True, max_size=30),
    st.none() | st.integers(1, 3),
    st.integers(0, 5),
)
def test_each_row_goes_to_the_best_of_its_classes_and_between_equal_ones_by_its_hash(
    pairs: list[tuple[int, int]], kinds: int | None, seed: int
) -> None:
    pairs = sorted(pairs, key=lambda one: (one[1], one[0]))
    class_ids, rows = (np.array([one[place] for one in pairs], np.int64) for place in (0, 1))
    names = {0: "a", 1: "missile", 2: "b", 3: "missile", 4: "c"}
    told = {"a": 0, "missile": 1, "b": 2, "c": 3}
    value = [(told[names[one]] * 7 + row) % (kinds or 1) for one, row in pairs]
    scores = None if kinds is None else np.array(value, np.float32)
    best = best_of_each_row(rows, class_ids, scores, names, seed)
    assert rows[best].tolist() == sorted(set(rows.tolist()))
    for one, row in np.array(pairs)[best] if pairs else ():
        mine = [score for score, pair in zip(value, pairs, strict=True) if pair[1] == row]
        assert kinds is None or value[pairs.index((one, row))] == max(mine)


def test_classes_of_one_name_share_their_rows_whatever_rounding_made_of_their_scores() -> None:
    rows = np.repeat(np.arange(1000), 3)
    class_ids = np.tile([657, 700, 744], 1000)
    names = {657: "missile", 700: "pole", 744: "missile"}
    rounded = np.tile(np.array([0.3, 0.1, 0.3 + 1e-7], np.float32), 1000)
    for scores, ids in ((rounded, {657, 744}), (None, {657, 700, 744})):
        best = best_of_each_row(rows, class_ids, scores, names, 0)
        found, counts = np.unique(class_ids[best], return_counts=True)
        assert set(found.tolist()) == ids
        assert counts.min() > 0.8 * 1000 / len(ids)


def test_tars_are_told_apart_by_content_and_old_outputs_say_that_they_did_not(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    pool = {"source": str(world / "pool"), "clip": CLIP.model_dump()}
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
        shutil.copy(world / "pool" / "00000.tar", tmp_path / name)
    assert retrieved(recipe_of(world, pool={**pool, "images": str(tmp_path / "same")}), whole, 2).made_units == 0
    with (tmp_path / "other" / "00000.tar").open("r+b") as tar:
        tar.write(b"x")
    other = recipe_of(world, pool={**pool, "images": str(tmp_path / "other")})
    with pytest.raises(ValueError, match=r"made by another recipe or from other data \(tars_digest: "):
        retrieved(other, whole, 3)
    begun = json.loads((whole / "_meta" / "run.json").read_text())["identity"]
    old = {name: value for name, value in begun.items() if name != "tars_digest"}
    assert not knows_tars(old)
    assert changes_of(old, begun) == []


def test_a_lexicon_and_senses_by_hand_stand_by_their_content_and_a_class_list_may_move(
    world: Path, tmp_path: Path
) -> None:
    ours = {"choose": "given", "overrides": str(tmp_path / "senses.yaml")}
    (tmp_path / "senses.yaml").write_text("zero: zero, the numeral\n")
    shutil.copy(home() / "sandbox" / "lexicon.yaml", tmp_path / "words.yaml")
    shutil.copy(home() / "sandbox" / "classes.csv", tmp_path / "classes.csv")

    def identified(**changes: object) -> dict[str, object]:
        told = {"lexicon": str(tmp_path / "words.yaml"), "meanings": ours, **changes}
        return {**identity(recipe_of(world, **told), "pool"), "class_list": "the same"}

    before = identified()
    assert changes_of(before, identified(classes={"source": str(tmp_path / "classes.csv"), "per_class": 4})) == []
    for name in ("words.yaml", "senses.yaml"):
        moved = str(shutil.copy(tmp_path / name, tmp_path / f"moved-{name}"))
        what = {"lexicon": moved} if name == "words.yaml" else {"meanings": {**ours, "overrides": moved}}
        assert changes_of(before, identified(**what)) == []
        Path(moved).write_text((tmp_path / name).read_text() + "# another\n")
        assert len(changes_of(before, identified(**what))) == 1


def test_tars_without_a_column_of_keys_are_not_read_from(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    table = pq.read_table(world / "pool" / "00000.parquet").drop_columns(["key"])
    pq.write_table(table, folder / "00000.parquet")
    (folder / "00000.tar").symlink_to(world / "pool" / "00000.tar")
    changes = {"filter": {"top": None}, "dedup": {"near": None}}
    told = look(recipe_of(world, pool={"source": str(folder)}, **changes), Fraction(1), StopFlag(), [].append)
    assert "addresses, of which 40 are asked first" in told
    named = recipe_of(world, pool={"source": str(folder), "images": str(folder)}, **changes)
    with pytest.raises(ValueError, match=r"00000\.parquet: found no column of keys.*pool\.columns\.key=NAME"):
        look(named, Fraction(1), StopFlag(), [].append)
    with pytest.raises(ValueError, match=r"found no images in tars, and dedup looks at pictures"):
        look(recipe_of(world, pool={"source": str(folder)}, filter={"top": None}), Fraction(1), StopFlag(), print)


def test_vectors_that_are_not_there_are_missed_before_anything_is_loaded(world: Path) -> None:
    for changes in ({"search": {"routes": ["text"]}}, {"search": {"routes": ["image"], "index": str(world)}}):
        with pytest.raises(ValueError, match=r"found no (text vectors|image index)"):
            look(recipe_of(world, meanings={"choose": "clip"}, **changes), Fraction(1), StopFlag(), print)


def test_the_command_makes_no_gallery_of_a_store_and_ends_with_the_outcome(world: Path, tmp_path: Path) -> None:
    file, url = tmp_path / "recipe.yaml", f"memory://{uuid.uuid4().hex}"
    file.write_text(dump_recipe(recipe_of(world)))
    made = CliRunner().invoke(command_line(), ["retrieve", str(file), "--scale", "1x", "--out", url])
    assert made.exit_code == 0, made.output
    assert f"`sixfold show {url} --out FOLDER`" in made.output
    assert "1x: 40 images in 2 of 2 shards" in made.output.splitlines()[-1]


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_killed_at_twenty_random_moments_of_search_and_shards_it_ends_with_the_same_bytes(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    seed = int(os.environ.get("SEED", "0"))
    print(f"seed {seed}")
    rng, out, kills, longest = random.Random(seed), tmp_path / "out", 0, 10.0
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_of(world)))
    called = ["retrieve", str(tmp_path / "recipe.yaml"), "--scale", "2x", "--out", str(out), "--no-gallery"]
    while True:
        child, begun = warm.start(["-m", "sixfold", *called]), time.monotonic()
        left = rng.uniform(0, longest) if kills < 20 else 600.0
        while child.poll() is None and time.monotonic() < begun + left:
            time.sleep(0.01)
        if child.poll() is None:
            child.kill()
            child.wait(60)
            kills += 1
            continue
        assert child.returncode == 0
        longest = max(1.0, time.monotonic() - begun)
        assert {path.name for path in out.glob("*.tar")} == {path.name for path in whole.glob("*.tar")}
        for path in (*whole.glob("*.tar"), whole / CANDIDATES):
            assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
        assert not list(out.glob("_meta/search/*"))
        if kills >= 20:
            return
        shutil.rmtree(out)


def test_a_generator_does_not_go_on_in_a_retrieved_set(world: Path, whole: Path) -> None:
    from gen.run.output import begun_by

    with pytest.raises(ValueError, match="an import or `sixfold retrieve` began, expected one of `sixfold generate`"):
        begun_by(open_for_reading(str(whole)))


def test_a_pool_without_images_and_a_route_without_vectors_are_named(world: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    table = pq.read_table(world / "pool" / "00000.parquet").drop_columns(["URL"])
    pq.write_table(table, tmp_path / "pool" / "0.parquet")
    with pytest.raises(ValueError, match=r"found no \*.tar and no column of addresses, expected the pool's images"):
        retrieved(recipe_of(world, pool={"source": str(tmp_path / "pool"), "clip": CLIP.model_dump()}), tmp_path / "o")
    with pytest.raises(ValueError, match="found no text vectors, expected those of route text"):
        retrieved(recipe_of(world, search={"routes": ["text"]}), tmp_path / "out")
