"""The path as a whole: a recipe becomes shards, and whatever interrupts it, the shards come out the same.

Everything is real: the sandbox's pipeline, the commit protocol, Ray where it is named. Small: 2 denoising steps and
shards of 10.
"""

import contextlib
import json
import random
import shutil
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import sixfold
from cluster.fan_out.claims import Claims
from cluster.process.lease import LeaseHeld
from cluster.process.lives import lives_of
from cluster.process.stop_flag import StopFlag
from cluster.process.writers import writers_of
from gen.make.outcome import MakeOutcome
from gen.make.refill import UnitWorker
from gen.prompts.prompts import PromptSpec, Sources, draw_table
from gen.run.describe import describe
from gen.run.recipe import changes_of, drawn_from, identity, job_of, read_recipe
from gen.run.remake import regenerate_images
from gen.run.run import run
from gen.sampler.text_to_image import make_text_to_image_worker
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import Wording
from shards.disk.home import home
from shards.disk.layout import SUCCESS, record_name
from shards.disk.store import open_for_reading, open_store
from shards.labels.classes import ClassSpec, load_classes
from shards.set.manifest import read_subset, read_table, scan_records
from shards.set.status import status_of
from shards.set.verify import verify
from sixfold import command_line
from tests.support import warm
from tests.support.killed import leave_claims_alone
from tests.support.tiny_pipelines import tiny_pipeline
from tests.support.waits import without_waits

pytestmark = pytest.mark.timeout(1800)  # workers that are killed again and again
HOME = home()
SMALL = ["sampler.steps=2", "shards.samples_per_shard=10", "sampler.batch=5", "prompts.per_class=30"]
HERE = "cluster.in_process=true"
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def generate(out: Path, scale: str, *overrides: str, say: Callable[[str], None] = print) -> MakeOutcome:
    recipe = read_recipe(HOME / "recipes" / "sandbox.yaml", [*SMALL, *overrides])
    return run(recipe, Fraction(scale), str(out), HOME, StopFlag(), say=say)


def command(out: Path, scale: str, *overrides: str) -> list[str]:
    recipe = str(HOME / "recipes" / "sandbox.yaml")
    options = ["--scale", f"{scale}x", "--out", str(out), "--no-gallery"]
    return ["-m", "sixfold", "generate", recipe, *options, *SMALL, *overrides]


def start_warm(out: Path) -> warm.Child:
    """`sixfold generate` of a fifth of a fold in a process of its own, which makes the images itself."""
    return warm.start(command(out, "0.2", HERE))


def files_of(out: Path) -> dict[str, bytes]:
    """Name -> bytes of everything whose bytes are promised: tars and tables."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*")) if path.suffix in (".tar", ".parquet")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.2x made at once, without interruption, in this process: 40 images in 4 shards."""
    out = tmp_path_factory.mktemp("whole") / "out"
    outcome = generate(out, "0.2", HERE)
    assert outcome.exit_code == 0, outcome.sentence()
    return out


def test_a_run_makes_exactly_what_was_asked_and_says_so(whole: Path) -> None:
    store = open_for_reading(str(whole))
    table = read_table(store, scan_records(store))
    rows = [row for row in table.to_pylist() if row["status"] == SUCCESS]
    assert len(rows) == 40
    assert set(Counter(row["class_id"] for row in rows).values()) == {4}, "balanced"
    assert len({row["uid"] for row in rows}) == len({row["seed"] for row in rows}) == 40
    assert not verify(store).damages
    summary = json.loads((whole / "_meta" / "summary.json").read_text())
    assert (summary["asked"], summary["there"]) == ({"images": 40, "units": 4},) * 2
    assert summary["exit_code"] == 0


def test_k5_every_image_says_that_it_is_synthetic_and_how_it_was_made(whole: Path) -> None:
    store = open_for_reading(str(whole))
    for row in read_table(store, scan_records(store)).to_pylist():
        assert row["domain"] == "synthetic"
        assert row["model"] == "sandbox/models/generator"
        assert row["revision"].startswith("sha256:")
        assert row["licence"] == "Apache-2.0"
        assert json.loads(row["sampler"])["steps"] == 2
        assert row["meaning"].endswith("the handwritten numeral")
        assert row["caption"].count(row["meaning"]) == 1
    run_json = json.loads((whole / "_meta" / "run.json").read_text())
    assert {"torch", "diffusers", "numpy"} <= run_json["identity"]["versions"].keys()
    assert len(run_json["code"]) == len(run_json["fingerprint"]) == 64
    # verify reads the XMP source type of every JPEG; a damage of kind "provenance" would be in its report
    assert not verify(store).damages


def test_the_same_command_again_makes_nothing(whole: Path) -> None:
    before = files_of(whole)
    outcome = generate(whole, "0.2", HERE)
    assert (outcome.made_units, outcome.exit_code, outcome.work) == (0, 0, None)
    assert files_of(whole) == before


def test_a_smaller_scale_selects_a_balanced_prefix_and_makes_nothing(whole: Path) -> None:
    before = files_of(whole)
    assert generate(whole, "0.1", HERE).made_units == 0
    assert generate(whole, "0.05", HERE).made_units == 0
    assert files_of(whole) == before
    store = open_for_reading(str(whole))
    names = [set(read_subset(store, name)[0]["uid"].to_pylist()) for name in ("0.05x", "0.1x", "0.2x")]
    assert [len(name) for name in names] == [10, 20, 40]
    assert names[0] < names[1] < names[2]


def test_raising_the_scale_in_steps_gives_the_same_bytes_as_at_once(whole: Path, tmp_path: Path) -> None:
    for scale in ("0.05", "0.1", "0.2"):
        assert generate(tmp_path / "out", scale, HERE).exit_code == 0
    assert files_of(tmp_path / "out") == files_of(whole)


def test_images_made_again_have_the_same_bytes(whole: Path) -> None:
    compared = regenerate_images(open_for_reading(str(whole)), 8, seed=1)
    assert len(compared) == 8
    assert all(one.same_bytes for one in compared)


def test_other_bytes_on_the_kind_of_cpu_that_made_them_are_a_fault_and_elsewhere_none(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")

    def verified() -> tuple[int, str]:
        said = CliRunner().invoke(sixfold.command_line(), ["verify", str(out), "--regenerate", "2"])
        return said.exit_code, said.output

    code, output = verified()
    assert (code, "2 images made again: 2 with the same bytes" in output) == (0, True)
    encode = UnitWorker.encode
    monkeypatch.setattr(
        UnitWorker, "encode", lambda self, image: encode(self, image ^ 1)
    )  # as a CPU that rounds otherwise
    code, output = verified()
    assert (code, "expected the same bytes, for this kind of CPU made them" in output) == (3, True)
    for device in ({"device": "cpu, another, AVX2"}, {}):
        store = open_store(str(out))
        for shard, record in scan_records(store).items():
            rest = {name: value for name, value in record.extra.items() if name != "device"}
            store.replace(record_name(shard), replace(record, extra={**rest, **device}).to_bytes())
        code, output = verified()
        assert (code, "no CPU of this kind made those, as far as their records say" in output) == (0, True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("seed=1", "seed: 0 before, 1 now"),
        ("sampler.steps=3", "sampler.steps: 2 before, 3 now"),
        ("sampler.batch=4", "sampler.batch: 5 before, 4 now"),
        ("sampler.threads=2", "sampler.threads: 1 before, 2 now"),
        ("shards.samples_per_shard=20", "shards.samples_per_shard: 10 before, 20 now"),
        ("shards.quality=90", "shards.quality: 95 before, 90 now"),
        ("screen.dark_levels=3", "screen.dark_levels: 24 before, 3 now"),
        ("prompts.negative=blurry", 'prompts.negative: "" before, "blurry" now'),
        ("meanings.given.zero=nothing at all", "meanings.given.zero"),
        ("prompts.style_share=0.25", "prompts.style_share: 0.5 before, 0.25 now"),
        ("llm.temperature=0.5", "llm.temperature: 0.8 before, 0.5 now"),
        ("classes.per_class=7", "classes.per_class: null before, 7 now"),
    ],
)
def test_a16_another_recipe_is_refused_with_the_difference(whole: Path, change: str, named: str) -> None:
    before = files_of(whole)
    with pytest.raises(ValueError, match="was made by another recipe") as caught:
        generate(whole, "0.2", HERE, "cluster.cpus_per_worker=2", change)
    assert named in str(caught.value)
    assert files_of(whole) == before


def test_a_model_counts_by_its_content_however_its_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, absolute or moved: the same run goes on, its rows say the same, and workers elsewhere find it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(HOME / "sandbox" / "models" / "generator", "my-sd")
    assert generate(Path("out"), "0.05", HERE, "sampler.model=my-sd").exit_code == 0
    shutil.copytree("my-sd", "moved")
    assert generate(Path("out"), "0.1", HERE, "sampler.model=moved").made_units == 1
    assert generate(Path("out"), "0.1", HERE, f"sampler.model={tmp_path / 'my-sd'}").made_units == 0
    store = open_for_reading("out")
    assert set(read_table(store, scan_records(store))["model"].to_pylist()) == {"my-sd"}
    assert generate(Path("once"), "0.1", HERE, "sampler.model=my-sd").made_units == 2
    assert files_of(Path("out")) == files_of(Path("once"))
    known = json.loads(Path("out/_meta/run.json").read_text())
    recipe = read_recipe(HOME / "recipes" / "sandbox.yaml", [*SMALL, "sampler.model=my-sd"])
    classes = load_classes(recipe.classes)
    job = job_of(recipe, classes, str(tmp_path / "out"), False, known["fingerprint"], "code", known["identity"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    make_text_to_image_worker(json.loads(job.model_dump_json()))
    other = tmp_path / "moved" / "scheduler" / "scheduler_config.json"
    other.write_text(other.read_text() + " ")
    with pytest.raises(ValueError, match=r"by another recipe \(sampler\.model: .my-sd. before, .*; model_digest"):
        generate(tmp_path / "out", "0.1", HERE, f"sampler.model={tmp_path / 'moved'}")


def test_an_extra_field_of_a_question_is_part_of_a_run_where_it_is_set_and_unknown_to_older_ones() -> None:
    asks = ["llm.provider=openai", "llm.model=m"]
    sandbox = HOME / "recipes" / "sandbox.yaml"
    plain, other = (identity(read_recipe(sandbox, [*asks, *extra])) for extra in ([], ["llm.extra.top_k=5"]))
    assert "extra" not in plain["llm"]
    both = [one | {"class_list": ""} for one in (plain, other)]
    assert changes_of(*both) == ["llm.extra.top_k: null before, 5 now"]
    assert changes_of(*reversed(both)) == ['llm.extra: {"top_k": 5} before, null now']


def test_a_class_list_counts_by_its_content_wherever_it_lies(whole: Path, tmp_path: Path) -> None:
    moved = shutil.copy(HOME / "sandbox" / "classes.csv", tmp_path / "moved.csv")
    assert generate(whole, "0.2", HERE, f"classes.source={moved}").made_units == 0


def test_another_meaning_in_the_class_list_is_another_run_and_remakes_are_the_same(tmp_path: Path) -> None:
    listed = tmp_path / "classes.csv"
    listed.write_text('name,meaning,kind\ncrane,"crane, the bird",animal\nseven,,\n')
    changes = [f"classes.source={listed}", "classes.per_class=5", "prompts={kind: name}", "meanings={choose: none}"]
    assert generate(tmp_path / "out", "1", HERE, *changes).exit_code == 0
    store = open_for_reading(str(tmp_path / "out"))
    prompts = set(read_table(store, scan_records(store))["caption"].to_pylist())
    assert {prompt for prompt in prompts if "crane" in prompt} == {"crane, the bird"}
    assert all(one.same_bytes for one in regenerate_images(store, 2, seed=0))
    listed.write_text(listed.read_text().replace("bird", "machine"))
    with pytest.raises(ValueError, match="the same names with other counts, WordNet ids, meanings or kinds"):
        generate(tmp_path / "out", "1", HERE, *changes)


def test_real_images_and_the_clip_that_chose_meanings_count_by_their_content_too(tmp_path: Path) -> None:
    sandbox = HOME / "recipes" / "sandbox.yaml"
    real = shutil.copytree(HOME / "sandbox" / "real-train", tmp_path / "real")
    clip = shutil.copytree(HOME / "sandbox" / "models" / "clip", tmp_path / "clip")
    moved = [f"meanings.real={real}", f"meanings.clip.model={clip}"]
    before, now = (identity(read_recipe(sandbox, changes)) | {"class_list": ""} for changes in ([], moved))
    recipe = read_recipe(sandbox, [])
    contents = drawn_from(recipe.meanings, recipe.llm)
    assert changes_of(before, now, contents) == []
    assert [line.partition(":")[0] for line in changes_of(before, now)] == ["meanings.real", "meanings.clip.model"]
    next(real.glob("**/*.jpg")).unlink()
    assert [line.partition(":")[0] for line in changes_of(before, now, contents)] == ["meanings.real"]
    (clip / "config.json").write_text((clip / "config.json").read_text() + " ")
    assert len(changes_of(before, now, contents)) == 2


def test_an_output_in_which_nothing_was_made_takes_a_corrected_recipe(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    for path in out.glob("0*"):
        path.unlink()
    (out / "_meta/subsets/0.2x (copy).json").write_text("{}")
    told: list[str] = []
    assert generate(out, "0.05", HERE, "seed=1", say=told.append).exit_code == 0
    assert [line for line in told if "begins anew with this recipe (seed: 0 before, 1 now)" in line]
    with pytest.raises(ValueError, match=r"was made by another recipe \(seed: 1 before, 0 now\)"):
        generate(out, "0.05", HERE)
    assert not verify(open_for_reading(str(out))).damages


def test_a_shard_that_a_killed_run_has_claimed_is_one_that_another_recipe_does_not_begin_anew_beside(
    whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    leave_claims_alone(out)
    with pytest.raises(ValueError, match=r"was made by another recipe \(seed: 0 before, 1 now\)"):
        generate(out, "0.05", HERE, "seed=1")
    (out / "_meta/run.json").rename(tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"found \d shards of run .* and no _meta/run.json, expected shards of this"):
        generate(out, "0.05", HERE, "seed=1")
    assert generate(out, "0.2", HERE).made_units == 0, "the claims are carried out"
    assert files_of(out) == files_of(whole)


def test_a_run_that_shares_its_output_makes_the_same_bytes_and_leaves_no_claim(whole: Path, tmp_path: Path) -> None:
    assert generate(tmp_path / "out", "0.2", HERE, "cluster.shared=true").exit_code == 0
    assert files_of(tmp_path / "out") == files_of(whole)
    assert [path.name for path in (tmp_path / "out/_meta/shared").iterdir()] == ["claims"]
    assert list((tmp_path / "out/_meta/shared/claims").iterdir()) == []
    assert writers_of(open_for_reading(str(tmp_path / "out"))) == []


@pytest.mark.parametrize("how", [(), ("cluster.shared=true",)])
def test_another_recipe_does_not_begin_anew_what_runs_that_share_it_work_on(
    whole: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    for path in out.glob("0*"):
        path.unlink()
    begun = (out / "_meta/run.json").read_bytes()
    refused = pytest.raises((ValueError, LeaseHeld), match=r"another recipe .seed: 0 before, 1|runs that share")
    with Claims(open_store(str(out)), "one", "one", 3, lambda unit: False).joined(print), refused as held:
        generate(out, "0.05", HERE, "seed=1", *how)
    assert "life one" in str(held.value)
    assert (out / "_meta/run.json").read_bytes() == begun


def test_a_negative_text_that_would_be_ignored_is_refused_before_anything_is_written(
    whole: Path, tmp_path: Path
) -> None:
    """Of the recipe with a model that takes none, and of one prompt of a table."""
    flux = [f"sampler.model={tiny_pipeline('flux', tmp_path / 'flux')}", "sampler.licence=none"]
    with pytest.raises(ValueError, match=r"prompts\.negative: a negative text has no effect with model .*flux at guid"):
        generate(tmp_path / "out", "0.2", HERE, *flux, "prompts.negative=blurry")
    table = pq.read_table(whole / "_meta" / "prompts.parquet")
    last = pa.array([*[""] * (len(table) - 1), "blurry"])
    file = tmp_path / "prompts.parquet"
    pq.write_table(table.set_column(table.column_names.index("negative"), table.schema.field("negative"), last), file)
    with pytest.raises(ValueError, match=r"prompts\.parquet: a negative text has no effect with .* at guidance 1;"):
        generate(tmp_path / "out", "0.2", HERE, "sampler.guidance=1", f"prompts.file={file}")
    assert not (tmp_path / "out").exists()


def begun_earlier(whole: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of `whole` as another version of sixfold would have begun it: its identity changed by `change`."""
    shutil.copytree(whole, out)
    known = json.loads((out / "_meta" / "run.json").read_text())
    for name in ("checksum", "files"):
        del known[name]
    (out / "_meta" / "classes.json").unlink()
    change(known["identity"])
    (out / "_meta" / "run.json").write_text(json.dumps(known | {"code": "0123456789abcdef"}))
    return out


def forget_new_fields(identity: dict[str, Any]) -> None:
    for name in ("guidance_interval", "fuse_qkv", "saved_px"):
        del identity["sampler"][name]
    del identity["prompts"]["captions"]
    del identity["screen"]
    del identity["llm"]


def test_a_run_of_an_earlier_version_goes_on_while_fields_it_did_not_know_stand_at_their_defaults(
    whole: Path, tmp_path: Path
) -> None:
    out = begun_earlier(whole, tmp_path / "out", forget_new_fields)
    before = files_of(out)
    assert generate(out, "0.2", HERE).made_units == 0
    assert all(one.same_bytes for one in regenerate_images(open_for_reading(str(out)), 2, seed=0))
    assert files_of(out) == before


def test_a_new_field_with_another_value_is_named_together_with_the_other_version(whole: Path, tmp_path: Path) -> None:
    out = begun_earlier(whole, tmp_path / "out", forget_new_fields)
    with pytest.raises(ValueError, match="was made by another recipe") as caught:
        generate(out, "0.2", HERE, "sampler.fuse_qkv=true")
    said = str(caught.value)
    assert "(sampler.fuse_qkv: false before, true now)" in said
    assert "by another version of sixfold (code 0123456789ab, here " in said
    assert "\n" not in said


def test_the_same_version_is_not_called_another_one(whole: Path) -> None:
    with pytest.raises(ValueError, match="was made by another recipe") as caught:
        generate(whole, "0.2", HERE, "seed=1")
    assert "another version" not in str(caught.value)


def test_a_field_that_only_the_earlier_version_knew_is_named(whole: Path, tmp_path: Path) -> None:
    out = begun_earlier(whole, tmp_path / "out", lambda identity: identity["sampler"].update(dropped=3))
    with pytest.raises(ValueError, match=r"\(sampler\.dropped: 3 before, null now\), by another version of sixfold"):
        generate(out, "0.2", HERE)
    with pytest.raises(ValueError, match=r"cannot be made again here: .*sampler\.dropped.*; make them as they were"):
        regenerate_images(open_for_reading(str(out)), 1, seed=0)


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_data_set_that_knew_token_merging_goes_on_if_it_merged_none(
    whole: Path, tmp_path: Path, share: float | None
) -> None:
    out = begun_earlier(whole, tmp_path / "out", lambda identity: identity["sampler"].update(merge_tokens=share))
    recipe = out / "_meta" / "recipe.yaml"
    field = f"  merge_tokens: {json.dumps(share)}\n"
    recipe.write_text(recipe.read_text().replace("  reuse_every:", f"{field}  reuse_every:"))
    if share is None:
        before = files_of(out)
        assert generate(out, "0.2", HERE).made_units == 0
        assert all(one.same_bytes for one in regenerate_images(open_for_reading(str(out)), 2, seed=0))
        assert "merge_tokens" not in read_recipe(recipe, []).sampler.model_dump()
        assert files_of(out) == before
    else:
        with pytest.raises(ValueError, match=r"another recipe \(sampler\.merge_tokens: 0\.5 before, null now\)"):
            generate(out, "0.2", HERE)
        with pytest.raises(ValueError, match=r"`sampler`: found merge_tokens: 0\.5, which this version no longer has"):
            regenerate_images(open_for_reading(str(out)), 1, seed=0)


def test_an_output_whose_recipe_this_version_cannot_read_says_so_in_one_line(whole: Path, tmp_path: Path) -> None:
    out = begun_earlier(whole, tmp_path / "out", lambda identity: None)
    with (out / "_meta" / "recipe.yaml").open("a") as file:
        file.write("dropped: 3\n")
    with pytest.raises(ValueError, match=r"_meta/recipe\.yaml:\d+: unknown key `dropped`.*another version") as caught:
        regenerate_images(open_for_reading(str(out)), 1, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (range(9), "classes: 10 before, 9 now, id 9 is gone"),
        (range(11), "classes: 10 before, 11 now, id 10 is new"),
        ([*range(9), "nein"], "classes: id 9 was 'nine' before, 'nein' now"),
    ],
)
def test_another_class_list_is_refused_with_the_class(tmp_path: Path, rows: Iterable[object], named: str) -> None:
    source = tmp_path / "classes.txt"
    small = [HERE, f"classes.source={source}", "classes.per_class=1", "shards.samples_per_shard=2", "prompts.kind=name"]
    source.write_text("\n".join(NUMBERS[:10]))
    assert generate(tmp_path / "out", "0.2", *small, "prompts.per_class=null", "meanings.choose=none").exit_code == 0
    source.write_text("\n".join(NUMBERS[row] if isinstance(row, int) else str(row) for row in rows))
    with pytest.raises(ValueError, match="another recipe") as caught:
        generate(tmp_path / "out", "0.2", *small, "prompts.per_class=null", "meanings.choose=none")
    assert named in str(caught.value)


def test_how_the_work_is_spread_is_no_part_of_the_recipes_identity(whole: Path) -> None:
    spread = ["cluster.workers=7", "cluster.attempts=9", "llm.cache=elsewhere", "llm.tries=9"]
    assert generate(whole, "0.2", *spread).made_units == 0


def test_every_row_rebuilds_its_prompt_and_the_class_is_untouched_by_its_words(whole: Path) -> None:
    store = open_for_reading(str(whole))
    names = {one.id: one.name for one in load_classes(ClassSpec(source="sandbox"))}
    rows = read_table(store, scan_records(store)).to_pylist()
    assert {row["prompt_kind"] for row in rows} == {"cd", "sd"}
    for row in rows:
        words = json.loads(row["context"]) | ({"style": row["style"]} if row["style"] else {})
        assert Wording(row["prompt_form"], words).text(row["meaning"]) == row["caption"]
        assert row["meaning"] == f"{row['class_name']}, the handwritten numeral"
        assert row["class_name"] == names[row["class_id"]]


def test_a_run_may_take_finished_prompts_and_refuses_others_later(whole: Path, tmp_path: Path) -> None:
    finished = f"prompts.file={whole / '_meta' / 'prompts.parquet'}"
    assert generate(tmp_path / "out", "0.05", HERE, finished).exit_code == 0
    assert (tmp_path / "out" / "00000.tar").read_bytes() == (whole / "00000.tar").read_bytes()
    assert not (tmp_path / "out" / "_meta" / "meanings.jsonl").exists()
    classes, sources = load_classes(ClassSpec(source="sandbox")), Sources(load_lexicon("sandbox"))
    draw_table(classes, {}, PromptSpec(kind="name"), 0, sources, tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"another recipe.*prompts\.file"):
        generate(tmp_path / "out", "0.05", HERE, f"prompts.file={tmp_path / 'other.parquet'}")


def test_a10_a12_a_lost_record_a_lost_tar_and_a_copied_record_are_made_again(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "00001_stats.json").unlink()
    assert generate(out, "0.2", HERE).made_units == 1
    assert files_of(out) == files_of(whole)
    (out / "00002.tar").unlink()
    assert generate(out, "0.2", HERE).made_units == 1
    assert files_of(out) == files_of(whole)
    shutil.copy(out / "00001_stats.json", out / "00003_stats.json")
    assert generate(out, "0.2", HERE).made_units == 1
    assert files_of(out) == files_of(whole)
    assert not verify(open_for_reading(str(out))).damages


def test_what_is_set_aside_is_said(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for shard in (1, 3):
        (out / f"0000{shard}.tar").write_bytes(b"torn")
    said: list[str] = []
    assert generate(out, "0.2", HERE, say=said.append).made_units == 2
    aside = [line for line in said if "set aside" in line]
    assert aside == [
        f"2 damaged shards set aside in {out}/_meta/quarantine, first 00001; those of this scale are made again"
    ]
    assert sorted(path.name for path in (out / "_meta" / "quarantine").rglob("*.tar")) == ["00001.tar", "00003.tar"]


def test_the_state_of_an_output_names_what_is_damaged_and_what_is_missing(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    store = open_for_reading(str(out))
    assert writers_of(store) == []
    state = status_of(store, None)
    assert state.is_whole
    assert "writer    nobody now" in state.text
    assert "4 done, 0 damaged" in state.text
    (out / "00001.tar").write_bytes(b"torn")
    for path in out.glob("00003*"):
        path.unlink()
    state = status_of(store, None)
    assert not state.is_whole
    assert "2 done, 1 damaged: 00001" in state.text
    assert "asked for 4 shards, 1 of them missing: 00003" in state.text
    assert "00001.tar: found 4 bytes" in state.text
    assert "run the command that makes the set again" in state.text
    busy = status_of(store, "host a, pid 1").text
    assert "writer    host a, pid 1" in busy
    assert "sixfold generate" not in busy, "who writes now is making them"


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ("0.05", ["10 (0.05x)", "68.4 kB", "1 s of one worker", "1 of at most 10 images"]),
        ("6", ["8.2 MB", "1.7 min of one"]),
    ],
)
def test_amounts_of_a_description_have_units_that_fit(scale: str, words: list[str]) -> None:
    recipe = read_recipe(HOME / "recipes" / "sandbox.yaml", SMALL)
    said = describe(recipe, load_classes(recipe.classes), Fraction(scale))
    for word in words:
        assert word in said
    assert "0.00" not in said


def test_b23_a_unit_that_never_succeeds_is_named_and_the_exit_is_not_zero(tmp_path: Path) -> None:
    # no pixel is further than 255 from the middle colour, so every draw is rejected as blank or black
    outcome = generate(tmp_path / "out", "0.05", HERE, "screen.blank_levels=255", "cluster.attempts=1")
    assert outcome.exit_code == 3
    assert "not complete: gave up 1 unit (unit 0: " in outcome.sentence()
    assert "blank" in outcome.sentence()
    summary = json.loads((tmp_path / "out" / "_meta" / "summary.json").read_text())
    assert summary["exit_code"] == 3
    assert [one["unit"] for one in summary["work"]["quarantined"]] == [0]
    assert not list((tmp_path / "out").glob("*.tar"))


def test_b1_e5_two_workers_over_ray_that_are_killed_make_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    kill_workers_while_running(tmp_path / "out", "0.2", num_kills=2, seed=seed, steps=[], min_cpu_s=2)
    assert files_of(tmp_path / "out") == files_of(whole)


def test_b3_c2_a_killed_driver_continues_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_warm(out)
    wait_for_shards(out, 1, process)
    store = open_for_reading(str(out))
    assert [one.process.pid for one in writers_of(store)] == [process.pid]
    process.kill()
    process.wait(timeout=60)
    assert (out / "00000_stats.json").exists()
    assert writers_of(store) == [], "the lease of the dead names nobody"
    assert generate(out, "0.2", HERE).exit_code == 0
    assert files_of(out) == files_of(whole)
    assert not list((out / "_meta" / "tmp").iterdir()), "what the dead driver left was collected"
    killed, second = lives_of(store)
    assert (killed.process.pid, str(killed.before), killed.end) == (process.pid, "0 shards", None)
    assert killed.start_s is not None
    assert second.before is not None
    assert 1 <= second.before.number < 4, "what the dead one left"
    assert second.end is not None
    assert (second.end.exit_code, second.end.reason, str(second.end.there)) == (0, "complete", "4 shards")


def test_a28_c1_sigterm_stops_with_exit_75_and_the_run_can_go_on(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = warm.start([word for word in command(out, "0.2", HERE) if word != "--no-gallery"])
    wait_for_shards(out, 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=200) == 75, process.said()
    assert "run the same command again" in process.said()
    assert f"no gallery (stopped on request (SIGTERM)); `sixfold show {out}` writes it" in process.said()
    assert not (out / "_meta" / "gallery").exists()
    [stopped] = lives_of(open_for_reading(str(out)))
    assert stopped.end is not None
    assert (stopped.end.exit_code, stopped.end.reason) == (75, "stopped on request: SIGTERM")
    assert generate(out, "0.2", HERE).exit_code == 0
    assert files_of(out) == files_of(whole)


def test_a_run_on_a_store_ends_with_its_own_code_and_says_how_a_gallery_is_made() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    options = ["--scale", "0.05x", "--out", url, "--in-process"]
    made = CliRunner().invoke(command_line(), ["generate", str(HOME / "recipes" / "sandbox.yaml"), *options, *SMALL])
    assert made.exit_code == 0, made.output
    assert f"gallery: none on an object store; `sixfold show {url} --out FOLDER` writes one to a folder" in made.output
    assert "0.05x: 10 images in 1 of 1 shard" in made.output.splitlines()[-1]


def test_a17_a_second_run_on_the_same_output_is_refused_by_name(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = start_warm(out)
    try:
        deadline = time.monotonic() + 200
        while not (out / "_meta" / "lease.json").exists():
            assert time.monotonic() < deadline, "no lease in 200 s"
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # it shall not be done before the second one looks
        second = start_warm(out)
        assert second.wait(timeout=280) == 2, second.said()
        assert "another run is writing here" in second.said()
        assert str(first.pid) in second.said()
        output, _refusal = without_waits(second.said()).strip().splitlines()
        assert output == f"output: {out}"
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait(timeout=280) == 0
    assert files_of(out) == files_of(whole)


def test_k1_no_secret_of_the_environment_reaches_a_file_or_the_screen(tmp_path: Path) -> None:
    canary = "canary-7f3a9c51e2"
    secrets = {"HF_TOKEN": canary, "OPENAI_API_KEY": canary, "AWS_SECRET_ACCESS_KEY": canary}
    good = command(tmp_path / "out", "0.05", HERE)
    bad = [
        *command(tmp_path / "out", "0.05", HERE),
        f"sampler.model=https://user:{canary}@example.invalid/x?sig={canary}",
    ]
    for line in (good, bad):
        out, err = warm.start(line, environment=secrets).communicate(timeout=280)
        assert canary not in out
        assert canary not in err
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path


@pytest.mark.torture
def test_torture_20_worker_kills_and_3_driver_kills_end_in_the_same_bytes(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    steps = ["sampler.steps=12"]
    assert generate(tmp_path / "calm", "6", HERE, *steps).exit_code == 0
    out = tmp_path / "out"
    for shards in (2, 4, 6):
        kill_driver_after_shards(command(out, "6", *steps), out, shards)
    kills = kill_workers_while_running(out, "6", num_kills=20, seed=seed, steps=steps, min_cpu_s=9)
    print("workers killed", kills)
    assert kills == 20
    assert files_of(out) == files_of(tmp_path / "calm")


def wait_for_shards(out: Path, num: int, process: warm.Child) -> None:
    deadline = time.monotonic() + 280
    while len(list(out.glob("*_stats.json"))) < num:
        assert process.poll() is None, f"ended early with {process.returncode}"
        assert time.monotonic() < deadline, "no shard in time"
        time.sleep(0.02)


def kill_driver_after_shards(line: list[str], out: Path, num: int) -> None:
    process = warm.start(line)
    wait_for_shards(out, num, process)
    process.kill()
    process.wait(timeout=60)


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):  # it may end while we look
        return "ray::RayWorker" in " ".join([process.name(), *process.cmdline()[:1]])
    return False


def kill_workers_while_running(
    out: Path, scale: str, num_kills: int, seed: int, steps: list[str], min_cpu_s: float
) -> int:
    """Run over Ray with two workers and SIGKILL one of them up to `num_kills` times at moments drawn from `seed`.

    Only workers that have used `min_cpu_s` are shot: loading takes about 8, and a node on which two workers in a row
    die while they load is avoided, which ends a run that has no other. Returns the number of kills.
    """
    rng = random.Random(seed)
    spread = ["cluster.workers=2", "cluster.attempts=50", "cluster.straggler_factor=0"]
    process = warm.start(command(out, scale, *steps, *spread))
    killed: list[int] = []

    def kill() -> None:
        driver = psutil.Process(process.pid)
        while len(killed) < num_kills and driver.is_running():
            time.sleep(rng.uniform(0.1, 0.6))
            with contextlib.suppress(psutil.Error):  # whoever is looked at may end meanwhile
                # Ray's own helpers are called ray::DashboardAgent and the like; without them the node is gone
                family = [child for child in driver.children(recursive=True) if is_worker(child)]
                busy = [child for child in family if child.cpu_times().user > min_cpu_s]
                if busy:
                    victim = rng.choice(busy)
                    victim.kill()
                    killed.append(victim.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    said, errors = process.communicate(timeout=1500)
    killer.join(timeout=30)
    assert process.returncode == 0, said + errors
    assert len(killed) >= 1, f"the run ended before anybody was killed; it said: {said + errors}"
    return len(killed)
