"""A recipe may name an index: what it finds is what the scan finds, and search.json says which way was taken."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.process.exit import Draining
from cluster.process.stop_flag import StopFlag
from gen.model.clip import Clip, ClipSpec, clip_digest
from retrieve.index.build import plan
from retrieve.index.build import run as build
from retrieve.make.candidates import CANDIDATES
from retrieve.pool.images import PoolImages
from retrieve.pool.pool import open_pool
from retrieve.pool.spec import PoolSpec
from retrieve.run.recipe import RetrieveRecipe
from retrieve.run.route import check_routes, index_rows
from retrieve.run.run import look, run
from sandbox import captions, pool, sets
from sandbox.world import CLASS_NAMES
from shards.disk.checked_json import to_checked
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg
from tests.support.clustered_pool import index_spec
from tests.support.small_pool import write_vectors

CLIP = ClipSpec(model=str(home() / "sandbox" / "models" / "clip"), device="cpu")
ROWS = 300


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 300 rows with vectors of pictures."""
    folder = tmp_path_factory.mktemp("world") / "pool"
    folder.mkdir()
    pool.write_shard(folder, 0, list(captions.pool_rows(ROWS, test_scenes=sets.set_scenes("real-test"))))
    opened = open_pool(PoolSpec(source=folder))
    images = PoolImages(opened)
    pictures = [decode_jpeg(images.read(place)) for place in images.places(range(ROWS))]
    write_vectors(folder / "img_emb" / "img_emb_0.npy", Clip.load(CLIP).embed_images(pictures))
    about = {"model": "the sandbox's", "model_digest": clip_digest(CLIP), "modalities": {"image": {}}}
    (folder / "embeddings.json").write_bytes(to_checked(about))
    return folder


def recipe_of(world: Path, index: object, per_query: int = 60) -> RetrieveRecipe:
    plain = {
        "name": "small",
        "classes": {"source": "sandbox", "per_class": 2},
        "lexicon": "sandbox",
        "meanings": {"choose": "given", "given": {name: f"{name}, the handwritten numeral" for name in CLASS_NAMES}},
        "pool": {"source": str(world), "clip": CLIP.model_dump()},
        "search": {"routes": ["image"], "templates": ["{name}"], "per_query": per_query, "index": index},
        "filter": {"top": None},
        "dedup": {"near": None},
        "most": 1,
        "size_px": 64,
        "cluster": {"in_process": True},
    }
    return RetrieveRecipe.model_validate(plain)


def searched(world: Path, out: Path, index: object) -> dict[str, object]:
    """What search.json says of the route."""
    run(recipe_of(world, index), Fraction(1), str(out), home(), StopFlag(), say=[].append)
    found: dict[str, object] = json.loads((out / "_meta" / "search.json").read_text())["routes"]["image"]
    return found


def test_an_index_gives_the_candidates_of_the_scan_and_search_json_says_which_way_was_taken(
    world: Path, tmp_path: Path
) -> None:
    told = searched(world, tmp_path / "scan", None)
    assert (told["by"], told["why"], told["recall"]) == ("exact scan", "search.index is null", 1.0)
    told = searched(world, tmp_path / "auto", "auto")
    assert (told["by"], told["why"]) == ("exact scan", "no image index is there")
    for factory, where in (("Flat", "auto"), ("IVF4,SQ8", str(tmp_path / "lists"))):
        spec = index_spec(world, factory=factory, queries=5)
        build(plan(spec, None if where == "auto" else Path(where)), StopFlag(), [].append)
        told = searched(world, tmp_path / factory, where)
        assert (told["by"], told["factory"]) == ("index", "IDMap2,Flat" if factory == "Flat" else factory)
        assert told["recall"] >= 0.95
        assert "10 of this run's queries" in str(told["recall_of"])
    scan, flat, lists = (
        pq.read_table(tmp_path / name / CANDIDATES)["row"].to_pylist() for name in ("scan", "Flat", "IVF4,SQ8")
    )
    assert flat == scan
    assert len(set(lists) & set(scan)) >= 0.9 * len(scan)
    said = look(recipe_of(world, "auto"), Fraction(1), StopFlag(), [].append)
    assert "image vectors: searched by an index, IDMap2,Flat: recall 1.000 of the 60 nearest" in said


def test_a_data_set_that_an_index_chose_is_not_mixed_with_what_another_one_chooses(world: Path, tmp_path: Path) -> None:
    index, out = tmp_path / "index", tmp_path / "out"
    spec = index_spec(world, factory="IVF4,SQ8", queries=5)
    build(plan(spec, index), StopFlag(), [].append)
    recipe = recipe_of(world, str(index))
    assert run(recipe, Fraction(1), str(out), home(), StopFlag(), say=[].append).exit_code == 0
    moved = index.rename(tmp_path / "moved")
    again = run(recipe_of(world, str(moved)), Fraction(1), str(out), home(), StopFlag(), say=[].append)
    assert (again.exit_code, again.made_units) == (0, 0)  # the same index at another place
    with pytest.raises(ValueError, match=r"found no image index of `sixfold index`; build it, or set search.index"):
        run(recipe, Fraction(1), str(out), home(), StopFlag(), say=[].append)
    build(plan(index_spec(world, factory="IVF8,SQ8", queries=5), moved, again=True), StopFlag(), [].append)
    with pytest.raises(ValueError, match=r"made by another recipe or from other data \(search.index.image: "):
        run(recipe_of(world, str(moved)), Fraction(1), str(out), home(), StopFlag(), say=[].append)


def test_an_index_of_another_model_than_the_queries_is_refused(world: Path, tmp_path: Path) -> None:
    summary = (world / "embeddings.json").read_bytes()
    about = {"model": "another one", "model_digest": "b" * 64, "modalities": {"image": {}}}
    try:
        (world / "embeddings.json").write_bytes(to_checked(about))
        build(plan(index_spec(world, factory="Flat", queries=5), tmp_path / "index"), StopFlag(), [].append)
    finally:
        (world / "embeddings.json").write_bytes(summary)
    with pytest.raises(ValueError, match=r"by the model another one .digest bbbbbbbbbbbb.*; name that model") as error:
        look(recipe_of(world, str(tmp_path / "index")), Fraction(1), StopFlag(), [].append)
    assert "\n" not in str(error.value)


def test_an_index_finds_as_many_rows_that_may_leave_as_are_asked_for(world: Path, tmp_path: Path) -> None:
    build(plan(index_spec(world, factory="Flat", queries=5), tmp_path / "index"), StopFlag(), [].append)
    recipe = recipe_of(world, str(tmp_path / "index"), per_query=40)
    searched = open_pool(recipe.pool)
    assert searched.image is not None
    flagged = np.flatnonzero(~searched.may_leave(0, ROWS))
    assert len(flagged)
    queries = searched.image.take(flagged[:3])  # so that the nearest row of each is flagged
    rows, _ = index_rows(recipe, tmp_path / "index", searched, "image", queries)
    assert rows.shape == (3, 40)
    assert searched.may_leave(0, ROWS)[rows].all()


def test_a_search_by_an_index_hears_a_stop(world: Path, tmp_path: Path) -> None:
    build(plan(index_spec(world, factory="Flat", queries=5), tmp_path / "index"), StopFlag(), [].append)
    recipe = recipe_of(world, str(tmp_path / "index"), per_query=40)
    searched, stop = open_pool(recipe.pool), StopFlag()
    assert searched.image is not None
    stop.request("SIGTERM")
    with pytest.raises(Draining, match=r"stopped on request \(SIGTERM\)"):
        index_rows(recipe, tmp_path / "index", searched, "image", searched.image.take(np.arange(3)), stop.go_on)


def changed(recipe: RetrieveRecipe, **changes: object) -> RetrieveRecipe:
    return RetrieveRecipe.model_validate({**recipe.model_dump(mode="json"), **changes})


def test_scores_are_refused_where_the_pool_has_no_vectors_of_pictures(world: Path, tmp_path: Path) -> None:
    (tmp_path / "00000.parquet").symlink_to(world / "00000.parquet")
    (tmp_path / "00000.tar").symlink_to(world / "00000.tar")
    plain = changed(recipe_of(tmp_path, None), search={"routes": ["captions"]})
    for changes, what in (
        ({"filter": {"top": 0.3}}, "filter"),
        ({"filter": {"top": None, "score": 0.9}}, "filter"),
        ({"filter": {"top": None, "by_class": {0: 0.9}}}, "filter"),
        ({"order": "score"}, "order: score"),
    ):
        with pytest.raises(ValueError, match=rf"no image vectors, expected those of {what}; .*embed --images") as error:
            look(changed(plain, **changes), Fraction(1), StopFlag(), [].append)
        assert "\n" not in str(error.value)


def test_vectors_of_another_model_are_refused_as_a_route_and_for_scores(world: Path) -> None:
    summary = (world / "embeddings.json").read_bytes()
    captions = {"search": {"routes": ["captions"]}, "filter": {"top": 0.3}}
    try:
        for told, is_refused in ({"image": {}}, True), ({"text": {}}, False):
            about = {"model": "another one", "model_digest": "b" * 64, "modalities": told}
            (world / "embeddings.json").write_bytes(to_checked(about))
            for changes in ({}, captions):
                recipe = changed(recipe_of(world, None), **changes)
                if is_refused:
                    with pytest.raises(ValueError, match=r"pool\.clip .* made the image vectors .*'another one'"):
                        look(recipe, Fraction(1), StopFlag(), [].append)
                else:  # of these nobody says who made them
                    check_routes(recipe, open_pool(recipe.pool))
    finally:
        (world / "embeddings.json").write_bytes(summary)


def test_an_order_by_score_asks_for_a_clip(world: Path) -> None:
    with pytest.raises(ValueError, match=r"pool\.clip: found none"):
        changed(recipe_of(world, None), search={"routes": ["captions"]}, order="score", pool={"source": str(world)})


def test_an_index_beside_the_recipe_is_found_and_auto_is_no_path(world: Path) -> None:
    recipe = recipe_of(world, "auto")
    assert recipe.search.index == "auto"
    assert recipe.model_dump(mode="json")["search"]["index"] == "auto"
