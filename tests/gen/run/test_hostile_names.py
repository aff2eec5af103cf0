"""Hostile texts through the whole path: as class names, as meanings, as what a language model says.

200 texts and more go in at every place where a text can come from; what comes out are files with expected names, text
that is exactly what went in, pages with no element of their own, and a terminal and logs that one can look at. The
sandbox's generator makes one image of each class, in one step.
"""

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

import sixfold
from gen.names.kind import kind_of
from gen.prompts.diversity import measure_diversity
from gen.prompts.diversity_page import PAGES, write_page
from gen.prompts.meanings import resolve_given
from gen.prompts.table import Prompt, PromptTable
from gen.wording.parts import Wording, check_text
from shards.disk.home import home
from shards.disk.layout import SUCCESS
from shards.disk.safe_text import visible
from shards.disk.store import open_for_reading
from shards.labels.classes import Class, ClassSpec, clean_name, load_classes
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.verify import verify
from shards.views.export import Choice, export_timm
from shards.views.gallery import write_gallery
from shards.views.image_folder import export_image_folder
from shards.views.page import SCRIPT
from tests.shards.views.test_gallery import Page
from tests.support import warm
from tests.support.hostile_text import HOSTILE
from tests.support.meanings_file import meanings_in
from tests.support.scripted_server import Reply, ScriptedServer
from tests.support.small_data_set import write_data_set

HOME = home()
PER_CLASS = {"cd": 1, "caption": 3}  # prompts; of captions every third class, so that both say some 200 things
GOOD = {"foreground": "black ink", "background": "white paper", "light": "in daylight"}
FILES = re.compile(
    r"out/(README\.md|[0-9]{5}(\.tar|\.parquet|_stats\.json)"
    r"|_meta/(run\.json|recipe\.yaml|classes\.json|meanings\.jsonl|prompts\.parquet|summary\.json|records\.jsonl)"
    r"|_meta/lease\.(json|lock)"
    r"|_meta/(subsets/1x\.(json|parquet)|logs/[0-9-]+\.jsonl|leases/[0-9]{6}\.json|lives/[0-9]{6}-[0-9a-z-]+\.json)"
    r"|_meta/gallery/(\.gallery|gallery\.css|(index|rejected|class-[0-9]{4})(-[0-9]+)?\.html"
    r"|__thumbs/[0-9]{5}/[0-9]{9}\.jpg))"
)
INPUTS = {"classes.json", "overrides.yaml", "c.sqlite", "c.sqlite-wal", "c.sqlite-shm"}
FORBIDDEN = {"iframe", "object", "embed", "form", "base", "math", "template", "video"}


def taken(check: Any, texts: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The texts that `check` takes, as it gives them back, and the lines with which it refuses the others."""
    good = []
    refusals: list[str] = []
    for text in texts:
        try:
            good.append(check(text))
        except ValueError as error:
            refusals.append(str(error))
    return good, refusals


@dataclass(frozen=True)
class Made:
    """What a run left behind: the folder with `out` in it, what was asked of the model, what the terminal showed."""

    folder: Path
    kind: str
    names: list[str]
    meanings: list[str]  # of class i, taken in turn
    command: list[str]
    command_lines: list[list[str]]  # of the run and its children, as the system knows them; of `cd` alone
    told: str


def hostile_model(request: dict[str, Any]) -> Reply:
    """Says hostile texts wherever it may say something, and a good one at the end; a function of the request."""
    user, draw = request["messages"][1]["content"], random.Random(request["seed"])

    def pick() -> str:
        return HOSTILE[int(draw.random() * len(HOSTILE))]

    if user.startswith("{"):
        plans = [{part: pick() if draw.random() < 0.5 else word for part, word in GOOD.items()} for _ in range(40)]
        answer: dict[str, Any] = {"contexts": [*plans, GOOD]}
    elif user.startswith("Subject: "):
        answer = {"backgrounds": [pick()[:120] for _ in range(20)]}
    else:
        answer = {"caption": f"a picture of {pick()}"[:400]}
    return Reply(json.dumps(answer))


@pytest.fixture(scope="module", params=PER_CLASS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(f"hostile-{request.param}")
    names, _ = taken(lambda text: clean_name(text, "a name"), HOSTILE)
    meanings, _ = taken(
        lambda text: check_text(text, "a meaning"), tuple(text for text in HOSTILE if len(text) < 5_000)
    )
    given = {number: meanings[number % len(meanings)] for number in range(0, len(names), 2)}
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(given))
    with ScriptedServer(hostile_model) as server:
        command = [
            *(sys.executable, "-m", "sixfold", "generate", str(HOME / "recipes" / "sandbox.yaml")),
            *("--scale", "1x", "--out", str(folder / "out"), f"classes.source={folder / 'classes.json'}"),
            *("classes.per_class=1", "meanings.choose=given", f"meanings.overrides={folder / 'overrides.yaml'}"),
            *("meanings.real=null", "meanings.clip=null"),
            *(f"prompts.kind={request.param}", f"prompts.per_class={PER_CLASS[request.param]}"),
            *(
                "prompts.captions.backgrounds=3",
                "prompts.captions.name_tries=0",
                "prompts.captions.rounds=50",
                "llm.provider=openai",
                "llm.model=m",
            ),
            *(f"llm.base_url={server.base_url}", f"llm.cache={folder / 'c.sqlite'}", "llm.tries=2"),
            *(
                "cluster.in_process=true",
                "sampler.steps=1",
                "sampler.guidance=1",
                "shards.samples_per_shard=500",
            ),
        ]
        seen: set[tuple[str, ...]] = set()
        if request.param == "cd":
            code, told = watched(command, seen)
        else:  # a warm child has no command line of its own
            child = warm.start(command[1:])
            code, told = child.wait(timeout=280), child.said()
    assert code == 0, told[-3_000:]
    return Made(folder, request.param, names, meanings, command, [list(line) for line in sorted(seen)], told)


def watched(command: list[str], seen: set[tuple[str, ...]]) -> tuple[int, str]:
    """Exit code and output; the command lines that the system shows meanwhile go into `seen`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    deadline = time.monotonic() + 280
    while running.poll() is None and time.monotonic() < deadline:
        seen |= set(command_lines(running.pid))
        time.sleep(0.1)
    said, _ = running.communicate(timeout=60)
    return running.returncode, said.decode("utf-8")


def command_lines(pid: int) -> Iterator[tuple[str, ...]]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                yield tuple(one.cmdline())


def rows_of(made: Made) -> list[dict[str, Any]]:
    store = open_for_reading(str(made.folder / "out"))
    rows: list[dict[str, Any]] = read_table(store, scan_records(store)).to_pylist()
    return rows


def prompts_of(made: Made) -> list[Prompt]:
    table = PromptTable.load(made.folder / "out" / "_meta" / "prompts.parquet")
    counts = table.num_per_class()
    return [table.prompt(class_id, number) for class_id, count in counts.items() for number in range(count)]


# what is taken and what is refused


def test_there_are_200_texts_and_each_is_another() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 200
    assert max(map(len, HOSTILE)) == 100_000


def test_j1_a_hostile_class_name_is_taken_as_it_is_or_refused_in_one_line(tmp_path: Path) -> None:
    source = tmp_path / "classes.json"

    def load(text: str) -> str:
        source.write_text(json.dumps([text]))
        (one,) = load_classes(ClassSpec(source=str(source), per_class=1))
        assert kind_of(one)
        return one.name

    good, refusals = taken(load, HOSTILE)
    assert len(good) > 150
    assert len(refusals) > 20
    assert good == taken(lambda text: clean_name(text, "a name"), HOSTILE)[0]
    for name in good:
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", name)
    for line in refusals:
        assert line.isprintable()
        assert len(line) < 400 + len(str(source))


def test_j1_a_hostile_meaning_is_taken_as_it_is_or_refused_in_one_line() -> None:
    one = Class(0, "crane", None, 1)
    good, refusals = taken(lambda text: resolve_given([one], {0: text}, "meanings.given")[0], HOSTILE)
    assert set(good) <= set(HOSTILE)
    assert len(good) > 200
    assert len(refusals) > 5  # nothing to read, NUL, lone surrogates, too long
    for line in refusals:
        assert line.isprintable()
        assert len(line) < 400


# the whole path


def test_j1_no_file_has_a_name_made_of_text(made: Made) -> None:
    for path in made.folder.rglob("*"):
        name = path.relative_to(made.folder).as_posix()
        assert path.is_dir() or name in INPUTS or FILES.fullmatch(name), name
    assert {path.name for path in made.folder.iterdir()} <= {"out", *INPUTS}
    assert not (HOME / "owned").exists()


def test_j1_no_text_enters_a_command_line(made: Made) -> None:
    assert made.command_lines or made.kind != "cd"
    for line in made.command_lines:
        if line:  # a process that has just ended has none
            assert line[1:] == made.command[1:]


def test_j1_names_meanings_and_what_a_model_said_come_back_from_the_tables_exactly(made: Made) -> None:
    rows, prompts = rows_of(made), prompts_of(made)
    assert [row["status"] for row in rows] == [SUCCESS] * len(made.names)
    assert {(prompt.class_id, prompt.class_name) for prompt in prompts} == set(enumerate(made.names))
    by_id = {(prompt.class_id, prompt.prompt_id): prompt for prompt in prompts}
    for prompt in prompts:
        number = prompt.class_id
        assert prompt.meaning == (made.meanings[number % len(made.meanings)] if number % 2 == 0 else None)
        assert prompt.text == Wording(prompt.form, prompt.words).text(prompt.meaning or prompt.class_name)
    for row in rows:
        prompt = by_id[row["class_id"], row["prompt_id"]]
        assert (row["class_name"], row["meaning"], row["caption"]) == (prompt.class_name, prompt.meaning, prompt.text)
        assert (row["context"], row["style"]) == (prompt.context, None)
    assert [one.phrase for one in meanings_in(made.folder / "out" / "_meta" / "meanings.jsonl")] == [
        prompt.meaning for prompt in prompts if prompt.prompt_id == 0
    ]
    said = {word for prompt in prompts for word in prompt.words.values()}
    assert len(said - set(GOOD.values())) > 80, "hostile words went through as words"


def test_j1_a_shard_has_keys_for_names_and_verify_finds_no_damage(made: Made) -> None:
    store = open_for_reading(str(made.folder / "out"))
    assert not verify(store).damages
    for path in (made.folder / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                assert re.fullmatch(r"[0-9]{9}\.(cls|jpg|json|txt)", member.name)
                assert member.isfile()
    for row in rows_of(made):
        assert read_member(store, row, "txt").decode("utf-8") == row["caption"]
        assert json.loads(read_member(store, row, "json"))["caption"] == row["caption"]
        assert read_member(store, row, "cls") == str(row["class_id"]).encode()


def test_j1_every_json_file_and_every_line_of_the_log_can_be_read_and_looked_at(made: Made) -> None:
    paths = [path for path in (made.folder / "out").rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    assert len(paths) >= 6
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            assert isinstance(yaml.safe_load(text), dict)
        elif path.name == "records.jsonl":  # each line begins with its checksum
            assert all(json.loads(line[9:]) for line in text.splitlines())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in text.splitlines())
        else:
            assert json.loads(text)
        assert visible(text.replace("\n", "")) == text.replace("\n", ""), path.name


def test_j1_the_terminal_shows_no_control_characters(made: Made) -> None:
    assert visible(made.told.replace("\n", "")) == made.told.replace("\n", "")
    assert f"1x: {len(made.names):,} images in 1 of 1 shard" in made.told


def test_j2_what_a_model_said_in_vain_is_counted_by_reason(made: Made) -> None:
    assert re.search(r"^sixfold: not used: .*[0-9]+ hidden characters", made.told, re.M)
    assert re.search(r"^sixfold: language model: [0-9,]+ asked, 0 known from before, ", made.told, re.M)


def test_j3_pages_have_no_element_or_attribute_of_a_hostile_text(made: Made, tmp_path: Path) -> None:
    benign = write_gallery(write_data_set(tmp_path / "set", num_shards=1), tmp_path / "gallery").parent
    allowed = {shape for path in benign.glob("*.html") for shape in shapes(path)}
    pages = sorted((made.folder / "out" / "_meta" / "gallery").glob("*.html"))
    assert len(pages) > len(made.names)
    for path in pages:
        check_page(path, allowed)


def test_j3_the_page_of_diversity_has_none_either(made: Made, tmp_path: Path) -> None:
    table = PromptTable.load(made.folder / "out" / "_meta" / "prompts.parquet")
    write_page(measure_diversity(table, seed=0), tmp_path / "hostile.html")
    # which parts of the page are shown depends on the prompts; what can be shown at all stands in its two templates
    layout = HOME / "shards" / "views" / "templates" / "page.html"
    template = "".join(path.read_text(encoding="utf-8") for path in (layout, PAGES / "diversity.html"))
    tags = set(re.findall(r"<([a-z][a-z0-9]*)", template))
    attributes = set(re.findall(r"\s([a-z-]+)=", template.lower()))
    for tag, names in shapes(tmp_path / "hostile.html"):
        assert tag in tags
        assert set(names) <= attributes
    check_page(tmp_path / "hostile.html", shapes(tmp_path / "hostile.html"))


def shapes(path: Path) -> set[tuple[str, tuple[str, ...]]]:
    return {(tag, tuple(attributes)) for tag, attributes in Page(path).shape()}


def check_page(path: Path, allowed: set[tuple[str, tuple[str, ...]]]) -> None:
    page = Page(path)
    assert shapes(path) <= allowed, (path.name, shapes(path) - allowed)
    assert not FORBIDDEN & {tag for tag, _ in page.elements}
    scripts = re.findall(r"(?s)<script>(.*?)</script>", path.read_text(encoding="utf-8"))
    assert len(scripts) == [tag for tag, _ in page.elements].count("script")
    assert set(scripts) <= {SCRIPT.read_text(encoding="utf-8")}, "a script that is not ours"
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src"):
            address = attributes.get(name) or "index.html"
            assert re.fullmatch(r"#[a-z0-9-]+|(__)?[a-z0-9/-]+\.(html|css|jpg)", address), (path.name, tag, address)
    text = path.read_text(encoding="utf-8").replace("\n", "")
    assert visible(text) == text


def test_j1_exports_have_expected_names_and_the_same_texts(made: Made, tmp_path: Path) -> None:
    store = open_for_reading(str(made.folder / "out"))
    export_timm(store, tmp_path / "timm", Choice())
    assert {path.name for path in (tmp_path / "timm").iterdir()} == {"00000.tar", "_info.json"}
    assert json.loads((tmp_path / "timm" / "_info.json").read_text())["splits"]["train"]["num_samples"] == len(
        made.names
    )
    export_image_folder(store, tmp_path / "folder", Choice())
    names = [path.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*.*")]
    assert len(names) == len(made.names) + 1
    for name in names:
        assert name == "metadata.parquet" or re.fullmatch(r"[0-9]{4}_[a-z0-9_]+/[0-9]{9}\.jpg", name), name
    listed = pq.read_table(tmp_path / "folder" / "metadata.parquet").to_pylist()
    assert [(row["class_name"], row["caption"]) for row in listed] == [
        (row["class_name"], row["caption"]) for row in rows_of(made)
    ]


VERBS = {
    "status": ["status", "{out}"],
    "plan": ["plan", "{recipe}", "{classes}", "--scale", "1x", "--dry-run"],
    "prompts": [
        *("prompts", "{recipe}", "{classes}", "--show", "1000", "--out", "{scratch}"),
        *("prompts.kind=name", "prompts.per_class=1"),
    ],
    "meanings": ["meanings", "{recipe}", "{classes}", "--show", "1000"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_j1_other_verbs_show_no_control_characters_either(
    verb: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        "{out}": [str(made.folder / "out")],
        "{recipe}": [str(HOME / "recipes" / "sandbox.yaml")],
        "{classes}": [
            f"classes.source={made.folder / 'classes.json'}",
            *("meanings.choose=given", f"meanings.overrides={made.folder / 'overrides.yaml'}"),
            *("meanings.real=null", "meanings.clip=null", "classes.per_class=1"),
        ],
        "{scratch}": [str(tmp_path / "scratch")],
    }
    monkeypatch.chdir(HOME)
    monkeypatch.setattr(sys, "argv", ["sixfold", *(word for one in VERBS[verb] for word in words.get(one, [one]))])
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), pytest.raises(SystemExit) as ended:
        sixfold.main()
    assert ended.value.code == 0, shown.getvalue()[-2_000:]
    text = shown.getvalue().replace("\n", "")
    assert visible(text) == text
    if verb == "prompts":
        assert {path.name for path in (tmp_path / "scratch").iterdir()} == {
            *("diversity.html", "meanings.jsonl", "prompts.parquet")
        }
