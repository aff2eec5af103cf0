"""Pictures and captions of a pool become vectors, row by row; a killed run goes on to the same bytes."""

import hashlib
import itertools
import json
import os
import random
import signal
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import retrieve.embed.unit as unit
import sixfold
from cluster.process.stop_flag import StopFlag
from gen.model.clip import Clip, ClipSpec, clip_width
from retrieve.embed.run import plan, run
from retrieve.embed.spec import EmbedSpec
from sandbox.sets import set_scenes
from sandbox.world import render
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg, encode_jpeg
from shards.stream.pixels import decode_with_pillow, whole_pixels
from tests.support.killed import Killed, killed_at
from tests.support.small_pool import pool_of, write_table, write_tar_of

CLIP = str(home() / "sandbox" / "models" / "clip")
SCENES = set_scenes("real-train")
UNITS, ROWS = 3, 10  # of the pool that most tests use
CAPTIONS = [[f"a {word} tile, number {row}" for row in range(ROWS)] for word in ("red", "blue", "green")]

STEPS = ((unit.EmbedWorker, "_embed"), (unit.Output, "write_record"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip():
    return Clip.load(ClipSpec(model=CLIP, batch=4))


@pytest.fixture
def loaded_once(clip, monkeypatch):
    """The model of every run in this process, which takes seconds to load."""
    monkeypatch.setattr(unit.Clip, "load", staticmethod(lambda spec: Clip(spec, clip._tower)))


def pictures(number):
    """JPEGs of one unit, by key."""
    scenes = itertools.islice(SCENES, number * ROWS, (number + 1) * ROWS)
    return {f"{number:05d}{place:04d}": encode_jpeg(render(scene)) for place, scene in enumerate(scenes)}


def make_pool(folder, **changed):
    """Tables beside tars, as img2dataset leaves them; `changed`: key -> other bytes, None for no member."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(UNITS):
        members = pictures(number)
        keys = list(members)
        members = {key: changed.get(f"k{key}", data) for key, data in members.items()}
        write_tar_of(folder / f"{number:05d}.tar", {key: data for key, data in members.items() if data is not None})
        write_table(
            folder / f"{number:05d}.parquet",
            TEXT=CAPTIONS[number],
            URL=[f"http://a/{key}" for key in keys],
            key=keys,
            NSFW=["NSFW" if place == 7 else "UNLIKELY" for place in range(ROWS)],
        )
    return folder


def spec_of(pool, modalities=("image", "text"), **fields):
    return EmbedSpec.model_validate(
        {
            "pool": {"source": str(pool), "clip": {"model": CLIP, "batch": 4}, **fields},
            "modalities": modalities,
            "cluster": {"in_process": True, "attempts": 1},
        }
    )


def embed(pool, out=None, modalities=("image", "text"), **fields):
    return run(plan(spec_of(pool, modalities, **fields), out), StopFlag())


def products(folder):
    """Name -> bytes of what a reader sees."""
    paths = [path for part in ("img_emb", "text_emb", "metadata") for path in sorted((folder / part).glob("*"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in [*paths, folder / "embeddings.json"]}


def record(folder, name):
    return json.loads((folder / "_meta" / "embed" / f"{name}.json").read_text())


def rows_of(embeddings):
    return embeddings.take(np.arange(embeddings.num_rows))


def test_what_is_written_is_a_pool_whose_rows_lead_back_to_members_of_tars(tmp_path, loaded_once):
    pool, out = make_pool(tmp_path / "pool"), tmp_path / "out"
    outcome = embed(pool, out)
    assert (outcome.exit_code, outcome.made_units, outcome.missing_units) == (0, UNITS, 0)
    assert sorted(path for path in products(out)) == [
        "embeddings.json",
        *(f"img_emb/img_emb_{number}.npy" for number in range(UNITS)),
        *(f"metadata/metadata_{number}.parquet" for number in range(UNITS)),
        *(f"text_emb/text_emb_{number}.npy" for number in range(UNITS)),
    ]
    assert np.load(out / "img_emb" / "img_emb_1.npy").dtype == np.float16
    read = pool_of(out, images=str(pool))
    assert read.num_rows == read.image.num_rows == read.text.num_rows == UNITS * ROWS
    assert read.image.dim == read.text.dim == clip_width(ClipSpec(model=CLIP)) == 64
    table = pq.read_table(out / "metadata" / "metadata_2.parquet")
    assert table["image_path"].to_pylist() == table["key"].to_pylist() == list(pictures(2))
    assert set(table["shard"].to_pylist()) == {"00002"}
    assert table["caption"].to_pylist() == CAPTIONS[2]
    assert set(table["nsfw"].to_pylist()) == {"NSFW", "UNLIKELY"}
    from retrieve.pool.images import PoolImages

    images = PoolImages(read)
    assert images.read(images.places([2 * ROWS + 3])[0]) == list(pictures(2).values())[3]


def test_the_number_of_a_file_has_as_many_digits_as_the_last_one_needs(tmp_path, loaded_once):
    for number in range(10):
        write_table(tmp_path / "pool" / f"{number}.parquet", caption=[str(number)])
    embed(tmp_path / "pool", modalities=("text",))
    assert [path.name for path in sorted((tmp_path / "pool" / "text_emb").iterdir())][:2] == [
        "text_emb_00.npy",
        "text_emb_01.npy",
    ]


def test_vectors_are_those_of_the_clip_and_flagged_rows_have_zeros(tmp_path, loaded_once, clip):
    pool = make_pool(tmp_path / "pool")
    embed(pool)
    read = pool_of(pool)
    for number in range(UNITS):
        mine = np.arange(number * ROWS, (number + 1) * ROWS)
        images = clip.embed_images([decode_jpeg(data) for data in pictures(number).values()])
        texts = clip.embed_texts(CAPTIONS[number])
        for found, expected in ((read.image.take(mine), images), (read.text.take(mine), texts)):
            assert not found[7].any()
            kept = np.arange(ROWS) != 7
            np.testing.assert_allclose(found[kept], expected[kept], atol=5e-4)
            assert np.argmax(found[kept] @ expected[kept].T, axis=1).tolist() == list(range(ROWS - 1))


def test_a_batch_has_the_very_bits_of_the_clip(tmp_path, loaded_once, clip):
    """The first batch is the three rows of the table's first row group; the bits of a row may depend on its batch."""
    pool = make_pool(tmp_path / "pool")
    embed(pool)
    images = [decode_jpeg(data) for data in list(pictures(0).values())[:3]]
    assert np.array_equal(np.load(pool / "img_emb" / "img_emb_0.npy")[:3], clip.embed_images(images).astype("f2"))
    assert np.array_equal(
        np.load(pool / "text_emb" / "text_emb_0.npy")[:3], clip.embed_texts(CAPTIONS[0][:3]).astype("f2")
    )


def test_threads_that_decode_change_no_byte(tmp_path, loaded_once):
    made = []
    for threads in (1, 4):
        pool = make_pool(tmp_path / str(threads))
        spec = spec_of(pool, ("image",)).model_copy(update={"decode_threads": threads})
        run(plan(spec, None), StopFlag())
        made.append(products(pool))
    assert made[0] == made[1]


def test_a_table_without_rows_keeps_its_place(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    empty = pq.read_table(pool / "00000.parquet").slice(0, 0)
    pq.write_table(empty, pool / "00001.parquet")
    assert embed(pool, tmp_path / "out").exit_code == 0
    read = pool_of(tmp_path / "out")
    assert [part.num_rows for part in read.parts] == [ROWS, 0, ROWS]
    assert read.text.take(np.array([ROWS])).any()


def test_a_record_that_was_changed_is_named_with_what_to_do(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    embed(pool, modalities=("text",))
    path = pool / "_meta" / "embed" / "text_emb_1.json"
    path.write_text(path.read_text().replace('"unit": 1', '"unit": 2'))
    with pytest.raises(ValueError, match=r"text_emb_1.json: found other content than its checksum says.*; delete it"):
        embed(pool, modalities=("text",))


def test_the_fast_decoder_gives_the_pixels_of_pillow():
    for data in pictures(0).values():
        assert np.array_equal(whole_pixels(data), decode_with_pillow(data))


def test_pictures_that_are_bad_or_not_there_have_zeros_and_are_named(tmp_path, loaded_once, clip):
    keys = list(pictures(1))
    strip = encode_jpeg(np.zeros((4, 400, 3), np.uint8))
    whole = pictures(1)[keys[5]]
    bad = {f"k{keys[2]}": b"<html>not found</html>", f"k{keys[3]}": None, f"k{keys[4]}": strip}
    pool = make_pool(tmp_path / "pool", **bad, **{f"k{keys[6]}": whole[: len(whole) // 2]})
    outcome = embed(pool)
    assert outcome.exit_code == 0
    vectors = np.load(pool / "img_emb" / "img_emb_1.npy")
    assert np.flatnonzero(~vectors.any(axis=1)).tolist() == [2, 3, 4, 6, 7]
    np.testing.assert_allclose(
        vectors[5].astype("f4"), clip.embed_images([decode_jpeg(whole)])[0], atol=5e-4
    )  # the rows behind a bad one are not shifted
    told = record(pool, "img_emb_1")
    assert told["statuses"] == {
        **{"failed_to_decode": 2, "failed_to_resize": 1, "no_picture": 1, "not_kept": 1},
        "success": ROWS - 5,
    }
    assert told["rows_by_status"] == {"failed_to_decode": [2, 6], "failed_to_resize": [4], "no_picture": [3]}
    assert keys[3] in next(one["reason"] for one in told["reasons"] if one["row"] == 3)
    assert np.load(pool / "text_emb" / "text_emb_1.npy")[2].any(), "its caption has a vector"
    assert "2 failed_to_decode" in outcome.sentence()


def test_flagged_and_blocked_rows_are_never_decoded(tmp_path, loaded_once, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    (tmp_path / "block.txt").write_text("http://a/000010002\n")
    seen = []
    monkeypatch.setattr(unit, "whole_pixels", lambda data: seen.append(data) or whole_pixels(data))
    embed(pool, block=[str(tmp_path / "block.txt")])
    never = {pictures(number)[f"{number:05d}0007"] for number in range(UNITS)} | {pictures(1)["000010002"]}
    assert len(seen) == UNITS * ROWS - len(never)
    assert not never & set(seen)
    assert record(pool, "text_emb_1")["statuses"] == {"not_kept": 2, "success": ROWS - 2}


def test_a_picture_whose_hash_is_blocked_is_never_decoded_though_the_table_says_no_hash(
    tmp_path, loaded_once, monkeypatch
):
    pool, never = make_pool(tmp_path / "pool"), pictures(1)["000010002"]
    (tmp_path / "block.txt").write_text(hashlib.sha256(never).hexdigest())
    seen = []
    monkeypatch.setattr(unit, "whole_pixels", lambda data: seen.append(data) or whole_pixels(data))
    embed(pool, modalities=("image",), block=[str(tmp_path / "block.txt")])
    assert never not in seen
    assert not np.load(pool / "img_emb" / "img_emb_1.npy")[2].any()
    assert record(pool, "img_emb_1")["rows_by_status"] == {"blocked": [2]}


def test_captions_alone_need_no_tars_and_pictures_may_follow(tmp_path, loaded_once):
    pool, whole = make_pool(tmp_path / "pool"), make_pool(tmp_path / "whole")
    for tar in pool.glob("*.tar"):
        tar.rename(tmp_path / tar.name)
    with pytest.raises(ValueError, match=r"found no \*.tar, expected the pictures; use --texts"):
        embed(pool, modalities=("image",))
    embed(pool, modalities=("text",))
    read = pool_of(pool)
    assert (read.image, read.text.num_rows) == (None, UNITS * ROWS)
    assert json.loads((pool / "embeddings.json").read_text())["modalities"].keys() == {"text"}
    for tar in tmp_path.glob("*.tar"):
        tar.rename(pool / tar.name)
    texts = {path: path.stat().st_mtime_ns for path in (pool / "text_emb").iterdir()}
    assert embed(pool, modalities=("image",)).exit_code == 0
    embed(whole)
    assert products(pool) == products(whole)
    assert texts == {path: path.stat().st_mtime_ns for path in (pool / "text_emb").iterdir()}, "not made again"


def test_a_row_without_a_caption_has_zeros_and_is_named(tmp_path, loaded_once):
    write_table(tmp_path / "0.parquet", caption=["a crane", None, "  ", "a die"])
    embed(tmp_path, modalities=("text",))
    assert np.load(tmp_path / "text_emb" / "text_emb_0.npy").any(axis=1).tolist() == [True, False, False, True]
    assert record(tmp_path, "text_emb_0")["rows_by_status"] == {"no_caption": [1, 2]}


def test_another_model_or_another_pool_is_refused_with_what_differs(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    out = tmp_path / "out"
    embed(pool, out, modalities=("text",))
    before = products(out)
    other = {"model": CLIP, "batch": 8}
    with pytest.raises(ValueError, match=r"another recipe \(batch: 4 before, 8 now\)"):
        embed(pool, out, clip=other)
    with pytest.raises(ValueError, match=r"unsafe_above: 0.5 before, 0.2 now"):
        embed(pool, out, unsafe_above=0.2)
    write_table(pool / "00002.parquet", TEXT=["x"], URL=["u"], key=["000020000"], NSFW=["UNLIKELY"])
    with pytest.raises(ValueError, match=r"pool_digest: .* before, .* now.*rows: 30 before, 21 now") as error:
        embed(pool, out)
    assert "\n" not in str(error.value)
    assert products(out) == before


def test_other_weights_are_refused(tmp_path, loaded_once, monkeypatch):
    pool = make_pool(tmp_path / "pool")
    embed(pool, modalities=("text",))
    monkeypatch.setattr("retrieve.embed.run.clip_digest", lambda spec: "0" * 64)
    with pytest.raises(ValueError, match=r"model_digest: .* before, .*0000.* now"):
        embed(pool)


def test_vectors_that_others_left_are_never_written_over(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    (pool / "img_emb").mkdir()
    np.save(pool / "img_emb" / "img_emb_0.npy", np.zeros((UNITS * ROWS, 4), np.float16))
    with pytest.raises(ValueError, match="img_emb: found files that `sixfold embed` did not write"):
        embed(pool)
    embed(pool, modalities=("text",))
    with pytest.raises(ValueError, match="img_emb: found files that `sixfold embed` did not write"):
        embed(pool)
    other = make_pool(tmp_path / "other")
    with pytest.raises(ValueError, match="found the tables of another pool; choose another --out"):
        embed(pool, other, modalities=("text",))


def test_vectors_that_came_after_a_run_had_begun_are_neither_removed_nor_written_over(tmp_path, loaded_once):
    pool, stop = make_pool(tmp_path / "pool"), StopFlag()
    stop.request("a test")
    assert run(plan(spec_of(pool), None), stop).made_units == 0  # begun, for both modalities
    official = pool / "img_emb" / "img_emb_0.npy"
    official.parent.mkdir(exist_ok=True)
    np.save(official, np.ones((UNITS * ROWS, 64), np.float16))
    before = official.read_bytes()
    assert embed(pool, modalities=("text",)).exit_code == 0
    with pytest.raises(ValueError, match=r"did not write, such as img_emb_0\.npy, .*or move them away") as error:
        embed(pool)
    assert "\n" not in str(error.value)
    assert official.read_bytes() == before
    assert json.loads((pool / "embeddings.json").read_text())["modalities"].keys() == {"text"}
    official.unlink()
    assert embed(pool).exit_code == 0


def test_a_file_has_its_record_before_it_has_its_name(tmp_path, loaded_once, monkeypatch):
    pool, out = make_pool(tmp_path / "pool"), tmp_path / "out"
    written, seen = unit.Output.write_record, []

    def then_look(output, modality, number, files, body):
        written(output, modality, number, files, body)
        seen.extend(name for name in files if (out / name).exists())

    monkeypatch.setattr(unit.Output, "write_record", then_look)
    embed(pool, out)
    assert seen == []


def test_a_unit_with_a_record_is_not_made_again_and_one_without_is(tmp_path, loaded_once):
    pool, out = make_pool(tmp_path / "pool"), tmp_path / "out"
    embed(pool, out)
    before = products(out)
    kept = (out / "img_emb" / "img_emb_0.npy").stat().st_mtime_ns
    assert embed(pool, out).made_units == 0
    (out / "_meta" / "embed" / "img_emb_1.json").unlink()
    (out / "img_emb" / "img_emb_1.npy").unlink()
    (out / "img_emb" / ".img_emb_2.npy.sixfold-0123456789abcdef.tmp").write_bytes(b"torn")
    (out / "text_emb" / "text_emb_2.npy").write_bytes(b"cut")  # its record says another size
    assert embed(pool, out).made_units == 2
    assert products(out) == before
    assert (out / "img_emb" / "img_emb_0.npy").stat().st_mtime_ns == kept


def test_while_a_run_is_half_done_the_vectors_are_no_pool_and_the_line_says_what_to_do(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    embed(pool)
    (pool / "_meta" / "embed" / "img_emb_1.json").unlink()
    (pool / "img_emb" / "img_emb_1.npy").unlink()
    with pytest.raises(ValueError, match=r"found 20 image vectors for 30 rows, .*run `sixfold embed` to its end"):
        pool_of(pool)
    assert embed(pool).made_units == 1
    assert pool_of(pool).image.num_rows == UNITS * ROWS


def test_a_damaged_tar_leaves_its_unit_out_and_the_others_are_made(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    tar = (pool / "00001.tar").read_bytes()
    (pool / "00001.tar").write_bytes(tar[:3000])
    outcome = embed(pool)
    assert (outcome.exit_code, outcome.made_units, outcome.missing_units) == (3, UNITS - 1, 1)
    assert "00001.tar: offset" in outcome.sentence()
    assert not (pool / "embeddings.json").exists()
    (pool / "00001.tar").write_bytes(tar)
    assert embed(pool).exit_code == 0


def test_a_run_that_ends_anywhere_goes_on_to_the_same_bytes(tmp_path, loaded_once):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pool = make_pool(tmp_path / "pool")
    embed(pool, tmp_path / "whole")
    whole = products(tmp_path / "whole")
    ended = Counter()
    for number in range(6):
        out = tmp_path / str(number)
        for _ in range(3):
            with pytest.MonkeyPatch.context() as patch:
                killed_at(patch, rng.randint(3, 40), *STEPS)
                try:
                    embed(pool, out)
                except Killed:
                    ended["killed"] += 1
        assert embed(pool, out).exit_code == 0
        assert products(out) == whole
        assert not list(out.rglob("*.tmp"))
    assert ended["killed"] > 5


def verb(*arguments):
    return CliRunner().invoke(sixfold.command_line(), [str(one) for one in arguments])


def test_the_verbs_tell_what_is_there_and_which_command_makes_the_rest(tmp_path, loaded_once):
    pool = make_pool(tmp_path / "pool")
    said = verb("pool", pool)
    assert said.exit_code == 0, said.output
    assert "3 tables" in said.stdout
    assert "27 may leave, 3 are flagged" in said.stdout
    assert f"no vectors in text_emb/; make them with `sixfold embed {pool} --clip MODEL --texts`" in said.stdout
    line = ["embed", pool, "--clip", CLIP, "--in-process", "pool.clip.batch=4"]
    said = verb(*line, "--dry-run")
    assert said.exit_code == 0, said.output
    assert "3 units of 30 rows" in said.stdout
    assert "img_emb/: 3.8 kB; 0 units there, 3 to make" in said.stdout
    assert not (pool / "_meta").exists()
    said = verb(*line)
    assert said.exit_code == 0, said.output
    assert "zeros stand for image: 3 not_kept; text: 3 not_kept" in said.stdout
    assert "img_emb/: 3.8 kB; 3 units there, 0 to make" in verb(*line, "--dry-run").stdout
    assert "30 vectors of 64 numbers in 3 files, made by" in verb("pool", pool).stdout
    refused = verb("embed", pool, "--clip", CLIP, "--in-process", "--dry-run")
    assert "batch: 4 before, 64 now" in str(refused.exception)


def test_only_captions_are_embedded_where_there_are_no_pictures(tmp_path, loaded_once):
    write_table(tmp_path / "0.parquet", caption=["a crane", "a die"])
    said = verb("embed", tmp_path, "--clip", CLIP, "--in-process")
    assert said.exit_code == 0, said.output
    assert "so only captions are embedded" in said.stderr
    assert pool_of(tmp_path).text.num_rows == 2


def begin_in_child(pool, out):
    """A process that embeds with the model of this one, so that it takes no seconds to start; its id."""
    pid = os.fork()
    if pid == 0:
        try:
            embed(pool, out)
        finally:
            os._exit(0)
    return pid


@pytest.mark.torture
def test_twenty_kills_of_the_process_change_no_byte(tmp_path, loaded_once):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pool, out = make_pool(tmp_path / "pool"), tmp_path / "out"
    started = time.monotonic()
    embed(pool, tmp_path / "whole")
    took_s = time.monotonic() - started
    whole, num_killed, num_made = products(tmp_path / "whole"), 0, Counter()
    for _ in range(20):
        for path in out.glob("*_emb/*.npy"):  # so that there is always something to make
            if rng.random() < 0.7:
                path.unlink()
        pid = begin_in_child(pool, out)
        time.sleep(rng.uniform(0.1, 1.0) * took_s)
        os.kill(pid, signal.SIGKILL)
        num_killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        num_made[len(list(out.glob("*_emb/*.npy")))] += 1
    assert num_killed >= 10
    assert len(num_made) > 1, "they ended at different places"
    assert embed(pool, out).exit_code == 0
    assert products(out) == whole
    assert not list(out.rglob("*_emb/.*"))
