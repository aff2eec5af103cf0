"""Text-to-image as a Maker: what a row says of its image, that text is only ever text, and that models are checked.

Behind it a model that paints, or at the end a real (tiny) pipeline. What any Maker gets of the refill loop is in
tests/gen/make.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen.make.plan import Sample, sample_seed, sample_uid
from gen.make.refill import ShardSpec, UnitJob, UnitWorker
from gen.make.regenerate import regenerate_some
from gen.prompts.prompts import PromptSpec, Sources, draw_table
from gen.prompts.table import PROMPT_TABLE, PromptTable
from gen.sampler.sampler import Request, Sampled
from gen.sampler.spec import SamplerSpec, sampler_digest
from gen.sampler.text_to_image import TextToImage, TextToImageJob, make_text_to_image_worker
from gen.wording.lexicon import load_lexicon
from shards.disk.jpeg import read_source_type
from shards.disk.layout import SUCCESS
from shards.disk.regular import sha256_of
from shards.disk.store import open_store
from shards.labels.classes import Class
from shards.set.manifest import read_member, read_table, scan_records
from tests.support.painter import FINGERPRINT, RUN_SEED, SIDE, no_beat, paint, sometimes
from tests.support.tiny_pipelines import tiny_pipeline

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = [Class(0, "zero", None, 12), Class(1, "one", None, 12), Class(7, "seven", None, 11)]
TEMPLATES = ("a {name}", "one {name}", "{name} on paper")


class PaintingModel:
    """A model whose image is a function of the seed, with accidents."""

    def __init__(self) -> None:
        self.fault = sometimes(0.3)
        self.prepared: list[tuple[list[str], list[str]]] = []
        self.requests: list[Request] = []

    def prepare(self, texts: Sequence[str], negatives: Sequence[str]) -> None:
        self.prepared.append((list(texts), list(negatives)))

    def sample(self, requests: Sequence[Request], alive: Callable[[float], None]) -> Sampled:
        self.requests += requests
        faults = [self.fault(request.seed) for request in requests]
        images = np.stack([paint(request.seed) for request in requests])
        for image, fault in zip(images, faults, strict=True):
            image[:] = image if fault in (None, "nan", "flagged") else 0
        finite, flagged = (np.array([fault == name for fault in faults]) for name in ("nan", "flagged"))
        return Sampled(images, ~finite, flagged, wait=lambda timeout_s: None)


def job(out: Path, sampler: SamplerSpec, digest: str = "d" * 64) -> TextToImageJob:
    return TextToImageJob(
        unit=UnitJob(out=str(out), fingerprint=FINGERPRINT, shards=ShardSpec(samples_per_shard=20, max_draws=8)),
        num_per_class={one.id: one.count for one in CLASSES},
        seed=RUN_SEED,
        sampler=sampler,
        model_digest=digest,
    )


def write_prompts_of(out: Path, templates: tuple[str, ...] = TEMPLATES, negative: str = "") -> PromptTable:
    table = out / PROMPT_TABLE
    table.parent.mkdir(parents=True, exist_ok=True)
    spec = PromptSpec(kind="template", templates=templates, negative=negative)
    draw_table(CLASSES, {}, spec, 3, Sources(load_lexicon("general")), table)
    return PromptTable.load(table)


def painted(out: Path, prompts: PromptTable) -> tuple[UnitWorker[Sample], PaintingModel]:
    spec = SamplerSpec(model="painter", size_px=SIDE, batch=8, vae_batch=4, licence="CC0-1.0", negative="blurry")
    model, asked = PaintingModel(), job(out, spec)
    return UnitWorker(asked.unit, TextToImage(asked, model, prompts), open_store(str(out))), model


def rows_of(one: UnitWorker[Sample], unit: int) -> list[dict[str, Any]]:
    return read_table(one.store, [unit]).to_pylist()


def test_k5_every_row_says_what_made_it(tmp_path: Path) -> None:
    """Model, hash of its weights, licence, settings, prompt and seed for every draw; XMP in every image."""
    prompts = write_prompts_of(tmp_path)
    one, model = painted(tmp_path, prompts)
    model.fault = sometimes(0.5)
    for unit in (0, 1):
        one(unit, "t-1", no_beat)
    rows = rows_of(one, 0) + rows_of(one, 1)
    assert {row["status"] for row in rows} == {SUCCESS, "nan", "flagged", "black"}
    for row in rows:
        identity = (11, row["class_id"], row["prompt_id"], row["replicate"], row["draw"])
        assert row["seed"] == sample_seed(*identity)
        assert row["uid"] == sample_uid(*identity)
        prompt = prompts.prompt(row["class_id"], row["prompt_id"])
        assert row["caption"] == prompt.text
        assert row["class_name"] == prompt.class_name
        assert row["negative"] == "blurry"
        assert row["domain"] == "synthetic"
        assert (row["model"], row["revision"], row["licence"]) == ("painter", f"sha256:{'d' * 64}", "CC0-1.0")
        assert json.loads(row["sampler"])["size_px"] == SIDE
        if row["status"] == SUCCESS:
            assert (row["width"], row["height"]) == (SIDE, SIDE)
            assert read_source_type(read_member(one.store, row)) == "trainedAlgorithmicMedia"
        else:
            assert row["sha256"] is None


def test_a_model_is_told_the_texts_of_a_unit_in_slot_order_and_asked_with_the_seed_of_the_row(tmp_path: Path) -> None:
    prompts = write_prompts_of(tmp_path, negative="grey")
    one, model = painted(tmp_path, prompts)
    one(0, "t-1", no_beat)
    samples = one.maker.samples(0)
    in_order = dict.fromkeys(prompts.prompt(sample.class_id, sample.prompt_id).text for sample in samples)
    assert [texts for texts, _ in model.prepared] == [list(in_order)]
    assert {(text, "grey") for text in in_order} == {(one.prompt, one.negative) for one in model.requests}
    made = {row["seed"]: row["caption"] for row in rows_of(one, 0)}
    assert {request.seed: request.prompt for request in model.requests} == made


def test_a_full_memory_is_said_in_the_words_of_the_recipe(tmp_path: Path) -> None:
    one, model = painted(tmp_path, write_prompts_of(tmp_path))

    def full(requests: Sequence[Request], alive: Callable[[float], None]) -> Sampled:
        raise RuntimeError("CUDA out of memory")

    model.sample = full  # type: ignore[method-assign]
    said = r"expected room for sampler\.batch = 8 and sampler\.vae_batch = 4; lower one of them in a new output$"
    with pytest.raises(RuntimeError, match=said) as error:
        one(0, "t-1", no_beat)
    assert "\n" not in str(error.value)


def test_a_model_without_any_success_says_what_to_check(tmp_path: Path) -> None:
    one, model = painted(tmp_path, write_prompts_of(tmp_path))
    model.fault = lambda seed: "flagged"
    with pytest.raises(ValueError, match=r"the model's safety checker objects\), .*; check model, dtype and size with"):
        one(0, "t-1", no_beat)


def test_j1_hostile_prompts_reach_the_row_and_the_caption_only(tmp_path: Path) -> None:
    hostile = ("../../x {name}", "/etc/passwd {name}", "%s {name}\n$(reboot)", "{name}\r\x1b]0;x\x07", '"; DROP {name}')
    one, model = painted(tmp_path, write_prompts_of(tmp_path, templates=hostile))
    model.fault = lambda seed: None
    one(0, "t-1", no_beat)
    rows = rows_of(one, 0)
    assert {row["status"] for row in rows} == {SUCCESS}
    captions = {read_member(one.store, row, "txt").decode() for row in rows}
    assert captions == {row["caption"] for row in rows}
    assert any("$(reboot)" in caption for caption in captions)
    names = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert names == ["00000.parquet", "00000.tar", "00000_stats.json", "prompts.parquet"]


# the real thing


def test_a_worker_made_from_plain_data_runs_a_real_pipeline_and_remakes_its_images(tmp_path: Path) -> None:
    model = tiny_pipeline("sd", tmp_path / "model")
    spec = SamplerSpec(model=str(model), steps=2, size_px=64, saved_px=SIDE, batch=8, device="cpu")
    tars = []
    for name in ("one", "two"):
        out = tmp_path / name
        write_prompts_of(out)
        plain = job(out, spec, sampler_digest(spec)).model_dump(mode="json")
        made = make_text_to_image_worker(json.loads(json.dumps(plain)))
        assert made(0, "t-1", no_beat)["images"] == 20
        assert all(comparison.same_bytes for comparison in regenerate_some(made, scan_records(made.store), 3, seed=0))
        tars.append((out / "00000.tar").read_bytes())
    assert tars[0] == tars[1]


def test_a_node_with_other_weights_is_refused(tmp_path: Path) -> None:
    write_prompts_of(tmp_path / "out")
    spec = SamplerSpec(model=str(tiny_pipeline("sd", tmp_path / "model")), size_px=64)
    with pytest.raises(ValueError, match="found other weights here") as error:
        make_text_to_image_worker(job(tmp_path / "out", spec).model_dump(mode="json"))
    assert "\n" not in str(error.value)


def test_weights_are_read_once_in_a_process_and_again_where_a_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_pipeline("sd", tmp_path / "model")
    spec = SamplerSpec(model=str(model), size_px=64)
    read: list[str] = []

    def noting(path: Path) -> str:
        read.append(str(path))
        return sha256_of(path)

    monkeypatch.setattr("gen.model.folder.sha256_of", noting)
    first = sampler_digest(spec)
    assert any(name.endswith(".safetensors") for name in read)
    read.clear()
    assert sampler_digest(spec) == first
    assert read == []
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert sampler_digest(spec) != first
    assert read == [str(weights)]
