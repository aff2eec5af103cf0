"""What is no other recipe: another way to say the same, and what the prompts of a run that has them were drawn from."""

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.process.stop_flag import StopFlag
from gen.make.outcome import MakeOutcome
from gen.run.recipe import changes_of, drawn_from, identity, read_recipe
from gen.run.remake import regenerate_images
from gen.run.run import run
from shards.disk.home import home
from shards.disk.store import open_for_reading

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SANDBOX = home() / "recipes" / "sandbox.yaml"
SMALL = ["sampler.steps=2", "shards.samples_per_shard=10", "sampler.batch=5", "cluster.in_process=true"]


def generate(out: Path, *overrides: str) -> MakeOutcome:
    return run(read_recipe(SANDBOX, [*SMALL, *overrides]), Fraction("0.05"), str(out), home(), StopFlag())


def identified(*overrides: str) -> dict[str, Any]:
    return identity(read_recipe(SANDBOX, overrides)) | {"class_list": "the same"}


def changed(before: dict[str, Any], now: dict[str, Any], contents: dict[str, str] | None = None) -> list[str]:
    """The names of the fields."""
    return sorted(line.partition(":")[0] for line in changes_of(before, now, contents or {}))


def test_a_run_goes_on_and_is_remade_without_the_table_its_prompts_came_from(whole: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(whole / "_meta" / "prompts.parquet", tmp_path / "prompts.parquet"))
    mine = [f"prompts.file={file}", "sampler.guidance=1"]
    assert generate(tmp_path / "out", *mine).exit_code == 0
    file.unlink()
    assert generate(tmp_path / "out", *mine).made_units == 0
    assert all(one.same_bytes for one in regenerate_images(open_for_reading(str(tmp_path / "out")), 2, seed=0))
    pq.write_table(pq.read_table(whole / "_meta" / "prompts.parquet"), file)  # not as sixfold does: other bytes
    with pytest.raises(ValueError, match=r"by another recipe \(prompts.file"):
        generate(tmp_path / "out", *mine)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert generate(out, "prompts={kind: template, per_class: 5}", "meanings={choose: none}").exit_code == 0
    return out


def test_a_lexicon_and_senses_by_hand_that_are_gone_change_nothing_and_others_do(tmp_path: Path) -> None:
    words = Path(shutil.copy(home() / "sandbox" / "lexicon.yaml", tmp_path / "words.yaml"))
    senses = tmp_path / "senses.yaml"
    senses.write_text("one: one, by hand\n")
    mine = [f"prompts.lexicon={words}", f"meanings.overrides={senses}"]
    before = identified(*mine)
    senses.write_text("one: one, in another hand\n")
    assert changed(before, identified(*mine)) == ["meanings.overrides"]
    senses.unlink()
    words.unlink()
    assert changed(before, identified(*mine)) == []
    assert changed(before, identified("prompts.lexicon=general")) == ["meanings.overrides", "prompts.lexicon"]
    assert changed(identified(), identified(*mine)) == ["meanings.overrides", "prompts.lexicon"]


def test_where_the_work_runs_and_how_the_counts_are_said_changes_nothing() -> None:
    before = identified("classes={source: sandbox, per_class: 20}")
    for same in (
        *("sampler.offload_text=true", "sampler.device=cpu", "meanings.clip.batch=3", "meanings.clip.device=cpu"),
        *("classes={source: sandbox, total: 200}", f"classes={{source: sandbox, counts: {[20] * 10}}}"),
    ):
        assert changed(before, identified("classes={source: sandbox, per_class: 20}", same)) == [], same
    assert changed(before, identified("meanings.clip=null", "meanings.real=null")) == ["meanings.clip", "meanings.real"]
    other = identified("classes={source: sandbox, total: 100}") | {"class_list": "another"}
    assert "class_list" in changed(before, other)


def test_a_local_language_model_counts_by_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    recipe = read_recipe(SANDBOX, ["llm.provider=transformers", f"llm.model={folder}"])
    before, contents = identity(recipe) | {"class_list": "the same"}, drawn_from(recipe.meanings, recipe.llm)
    moved = folder.rename(tmp_path / "moved")
    now = identified("llm.provider=transformers", f"llm.model={moved}")
    assert changed(before, now, contents) == []
    assert changed(before, now) == ["llm.model"]
    (moved / "config.json").write_text(json.dumps({"model_type": "gemma"}))
    assert changed(before, now, contents) == ["llm.model"]
