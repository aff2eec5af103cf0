"""Edits made again from a data set that somebody else made: its recipe chooses no address, no key and no file."""

import json
import shutil
from pathlib import Path

import pytest

from gen.edit.remake import regenerate_any
from shards.disk.layout import RUN
from shards.disk.store import open_for_reading
from shards.set.origin import CHECKSUM, to_checked
from tests.support.picture_server import PictureServer
from tests.support.scripted_server import ScriptedServer, answering
from tests.support.small_edits import MODELS, edit, judged_by

# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


YES = answering({"answer": "yes"})


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose edits a language model has accepted; its server is gone. The folder of its cache is beside it."""
    folder = tmp_path_factory.mktemp("judged")
    with ScriptedServer(YES) as server:
        body = judged_by(server.base_url, folder)
        made = edit(body, folder / "out", 1, source={"per_class": 1}, sampler={"steps": 2, "batch": 3})
    assert (made.images, made.exit_code) == (3, 0)
    return folder


def with_recipe(judged: Path, to: Path, changes: dict[str, str]) -> Path:
    """A copy of the set with other texts in its recipe."""
    shutil.copytree(judged / "out", to)
    recipe = to / "_meta" / "recipe.yaml"
    text = recipe.read_text()
    for before, now in changes.items():
        assert before in text
        text = text.replace(before, now)
    recipe.write_text(text)
    return to


def test_a_set_that_was_judged_is_made_again_without_asking_anybody(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the server that the recipe names, nor with the key that it names; and no cache is begun."""
    monkeypatch.setenv("MY_SECRET", "canary")
    cache = tmp_path / "elsewhere" / "x.sqlite"
    with ScriptedServer(YES) as server:
        changes = {
            "OPENAI_API_KEY": "MY_SECRET",
            str(judged / "llm.sqlite"): str(cache),
        }
        recipe = (judged / "out" / "_meta" / "recipe.yaml").read_text()
        before = recipe.partition("base_url: http")[2].split()[0]
        out = with_recipe(judged, tmp_path / "out", {**changes, f"http{before}": server.base_url})
        compared = regenerate_any(open_for_reading(str(out)), 3, 0)
        assert server.num_calls == 0
    assert [one.same_bytes for one in compared] == [True] * 3
    assert not cache.parent.exists()


def test_source_pictures_at_an_address_are_not_fetched(judged: Path, tmp_path: Path) -> None:
    with PictureServer() as server:
        address = f"{server.url}/gone/real"
        out = with_recipe(judged, tmp_path / "out", {str(judged / "real"): address})
        with pytest.raises(
            ValueError, match=f"^{address}: found an address that the data set chose, expected a folder"
        ):
            regenerate_any(open_for_reading(str(out)), 3, 0)
        assert server.requests == []


def test_the_real_pictures_that_chose_the_meanings_are_not_looked_for(judged: Path, tmp_path: Path) -> None:
    """Whoever writes a recipe may write a `run.json` that fits it."""
    with PictureServer() as server:
        place = f"real: {server.url}/gone/real"
        clip = f"max_images: 50\n  clip:\n    model: {MODELS / 'clip'}"
        changes = {"real: null": place, "max_images: 50\n  clip: null": clip}
        out = with_recipe(judged, tmp_path / "out", changes)
        known = json.loads((out / RUN).read_text())
        body = {name: value for name, value in known.items() if name != CHECKSUM}
        (out / RUN).write_bytes(to_checked({**body, "contents": {"real": "0" * 64}}))
        with pytest.raises(ValueError, match=r"found other settings, .* \(meanings\."):
            regenerate_any(open_for_reading(str(out)), 3, 0)
        assert server.requests == []
