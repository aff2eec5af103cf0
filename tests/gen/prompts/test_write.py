"""Diversify through the command line: class names and a language model in, meanings, prompts and a report out.

The server is scripted: it reads what is asked and answers as a sensible model would, with words that the sandbox knows.
Everything else is real.
"""

import json
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import sixfold
from gen.llm.ask import LlmUse
from gen.prompts.table import Prompt, PromptTable
from gen.prompts.write import Written
from gen.wording.lexicon import load_lexicon
from gen.wording.parts import Wording
from sandbox.captions import NUMERAL_MEANINGS
from sandbox.world import CLASS_NAMES
from shards.disk.home import home
from shards.disk.layout import SUCCESS
from shards.disk.store import open_for_reading
from shards.set.manifest import read_table, scan_records
from tests.support import warm
from tests.support.dice import write_dice
from tests.support.meanings_file import meanings_in
from tests.support.scripted_server import Reply, ScriptedServer
from tests.support.waits import without_waits
from tests.support.workers import printed_seed

HOME = home()
RECIPE = str(HOME / "recipes" / "sandbox.yaml")
SANDBOX = load_lexicon("sandbox")
NUMERALS = {name: NUMERAL_MEANINGS[0].format(name=name, digit=digit) for digit, name in enumerate(CLASS_NAMES)}
FILES = ["diversity.html", "meanings.jsonl", "prompts.parquet"]
# few enough to be quick; contexts of so small a vocabulary are all alike to a CLIP
# diffusers' own, under NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SMALL = ["prompts.per_class=12", "meanings.max_images=20", "prompts.contexts.alike=1"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`sixfold ARGUMENTS` in this process, which has the libraries loaded."""

    def here(*arguments: str) -> Said:
        monkeypatch.chdir(HOME)
        monkeypatch.setattr(sys, "argv", ["sixfold", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            sixfold.main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, said.out, said.err)

    return here


def sensible(request: dict[str, Any]) -> Reply:
    """What a model would answer; a function of the request alone."""
    user, draw = request["messages"][1]["content"], random.Random(request["seed"])

    def pick(part: str) -> str:
        words = SANDBOX.words(part, "other")
        return words[int(draw.random() * len(words))]

    if user.startswith("The name is "):
        name = json.loads(user.removeprefix("The name is ").partition(". List up to ")[0])
        return Reply(json.dumps({"meanings": SANDBOX.senses[name]}))
    if user.startswith("{"):
        parts = ("foreground", "background", "light")
        plans = [{part: pick(part) for part in parts} for _ in range(json.loads(user)["number of plans"])]
        return Reply(json.dumps({"contexts": plans}))
    if user.startswith("Subject: "):
        return Reply(json.dumps({"backgrounds": list(SANDBOX.words("background", "other"))}))
    subject = user.rpartition("\n")[2].removesuffix(" =>").partition(",")[0]
    caption = f"{subject} in {pick('foreground')} on {pick('background')}, {pick('light')}"
    return Reply(json.dumps({"caption": caption}))


def late(request: dict[str, Any]) -> Reply:
    """The same, 200 ms later: long enough to be stopped in the middle on a busy machine."""
    return replace(sensible(request), delay_s=0.2)


def asking(server: ScriptedServer, cache: Path) -> list[str]:
    return [
        "llm.provider=openai",
        "llm.model=m",
        f"llm.base_url={server.base_url}",
        f"llm.cache={cache}",
        "llm.backoff_s=0.01",
    ]


def prompts(out: Path, *overrides: str) -> list[str]:
    return ["prompts", RECIPE, "--out", str(out), *SMALL, *overrides]


def child(*arguments: str) -> warm.Child:
    return warm.start(["-m", "sixfold", *arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(table: PromptTable) -> list[Prompt]:
    return [
        table.prompt(class_id, prompt_id)
        for class_id, count in table.num_per_class().items()
        for prompt_id in range(count)
    ]


@dataclass(frozen=True)
class Calm:
    """A run that nothing disturbed."""

    files: dict[str, bytes]
    out: Path
    num_calls: int


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    folder = tmp_path_factory.mktemp("calm")
    with ScriptedServer(sensible) as server:
        made = child(*prompts(folder / "out", *asking(server, folder / "c.sqlite")))
        said = made.communicate(timeout=280)
        assert made.returncode == 0, said
        return Calm(contents(folder / "out"), folder / "out", server.num_calls)


# what is made


def test_a_language_model_gives_meanings_contexts_and_a_report(calm: Calm) -> None:
    assert sorted(calm.files) == FILES
    meanings = meanings_in(calm.out / "meanings.jsonl")
    assert {one.class_name: one.phrase for one in meanings} == NUMERALS
    assert {(one.source, one.candidate_source, one.num_images) for one in meanings} == {("clip", "llm", 20)}
    rows = rows_of(PromptTable.load(calm.out / "prompts.parquet"))
    assert len({row.text for row in rows}) == len(rows) == 10 * 12
    assert Counter(row.kind for row in rows) == {"cd": 60, "sd": 60}
    for row in rows:
        assert row.class_name == CLASS_NAMES[row.class_id]
        assert row.meaning == NUMERALS[row.class_name]
        assert row.text == Wording(row.form, row.words).text(row.meaning)
        assert row.text.count(row.meaning) == 1
        for part in ("foreground", "background", "light"):
            assert row.words[part] in SANDBOX.words(part, "other")
    page = calm.files["diversity.html"].decode()
    assert "</html>" in page
    assert "zero" in page


def test_a_second_run_makes_no_call_and_gives_the_same_bytes(run: Run, calm: Calm, tmp_path: Path) -> None:
    with ScriptedServer(sensible) as server:
        first = run(*prompts(tmp_path / "a", *asking(server, tmp_path / "c.sqlite")))
        assert (first.code, server.num_calls) == (0, calm.num_calls), first.err
        assert f"{calm.num_calls:,} asked, 0 known from before, {calm.num_calls:,} answered" in first.out
        again = run(*prompts(tmp_path / "b", *asking(server, tmp_path / "c.sqlite")))
        assert (again.code, server.num_calls) == (0, calm.num_calls), again.err
        assert f"{calm.num_calls:,} asked, {calm.num_calls:,} known from before, 0 answered in 0 calls" in again.out
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == calm.files


def test_the_order_in_which_answers_arrive_changes_no_byte(run: Run, calm: Calm, tmp_path: Path) -> None:
    luck = random.Random(printed_seed())

    def whenever(request: dict[str, Any]) -> Reply:
        return replace(sensible(request), delay_s=0.1 * luck.random())

    with ScriptedServer(whenever) as server:
        said = run(*prompts(tmp_path / "out", *asking(server, tmp_path / "c.sqlite"), "llm.max_in_flight=7"))
        assert server.most_in_flight > 1
    assert said.code == 0, said.err
    assert contents(tmp_path / "out") == calm.files


@pytest.mark.parametrize("kind", ["caption", "cd", "sd", "cd+sd"])
def test_every_kind_is_one_field_and_every_text_can_be_put_together_again(kind: str, run: Run, tmp_path: Path) -> None:
    with ScriptedServer(sensible) as server:
        overrides = [f"prompts.kind={kind}", "meanings.choose=given", "meanings.given={3: 'three, the numeral'}"]
        ask = asking(server, tmp_path / "c.sqlite")
        said = run(*prompts(tmp_path / "out", *ask, *overrides, "meanings.real=null", "meanings.clip=null"))
    assert said.code == 0, said.err
    rows = rows_of(PromptTable.load(tmp_path / "out" / "prompts.parquet"))
    assert len({row.text for row in rows}) == len(rows) == 10 * 12
    assert {row.kind for row in rows} == set(kind.split("+"))
    for row in rows:
        assert row.meaning == ("three, the numeral" if row.class_id == 3 else None)
        name = row.meaning or row.class_name
        assert row.text == Wording(row.form, row.words).text(name)
        assert name in row.text
        assert ("style" in row.words) == (row.kind == "sd")


@pytest.mark.parametrize(("kind", "count"), [("name", 10), ("template", 800)])
def test_names_and_templates_have_a_report_too(kind: str, count: int, run: Run, tmp_path: Path) -> None:
    said = run(*prompts(tmp_path / "out", f"prompts.kind={kind}", "prompts.per_class=null"))
    assert said.code == 0, said.err
    assert f"{count} prompts for 10 classes" in said.out
    assert said.err == ""
    assert sorted(contents(tmp_path / "out")) == FILES


def test_images_of_dice_choose_the_other_sense_and_a_file_of_overrides_corrects_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dice").mkdir()
    (tmp_path / "hand.yaml").write_text(yaml.safe_dump({"four": "four, the rowing crew"}))
    overrides = [f"meanings.real={write_dice(tmp_path / 'dice', 20)}", f"meanings.overrides={tmp_path / 'hand.yaml'}"]
    with ScriptedServer(sensible) as server:
        ask = asking(server, tmp_path / "c.sqlite")
        said = run("meanings", RECIPE, "--out", str(tmp_path / "m.jsonl"), *ask, *overrides)
        assert server.num_calls == 9, "the one that is given needs no candidates"
    assert said.code == 0, said.err
    assert f"10 classes: 9 clip, 1 given; in {tmp_path / 'm.jsonl'}" in said.out
    for one in meanings_in(tmp_path / "m.jsonl"):
        if one.class_name == "four":
            assert (one.phrase, one.source) == ("four, the rowing crew", "given")
        else:
            assert one.phrase is not None
            assert one.phrase.endswith(("the face of a die", "the face of a tile"))
            assert one.phrase in said.out


def test_names_that_nobody_knows_are_counted_with_what_can_be_done(run: Run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("flumph\ntwo\n")
    mine = [f"classes.source={tmp_path / 'names.txt'}", "classes.per_class=1", "meanings.wordnet=null"]
    said = run("meanings", RECIPE, *mine, "meanings.real=null", "meanings.clip=null")
    assert said.code == 0, said.err
    assert said.err.splitlines()[0].startswith("sixfold: meanings: a name of several senses stays bare")
    assert said.err.partition("\n")[2] == (
        "sixfold: meanings: nobody knows a sense of 1 of 2 names; ask a language model (llm.provider), install "
        "WordNet (apt install wordnet-base), or write phrases by hand (meanings.overrides)\n"
    )


# what goes wrong


def stopped_in_the_middle(server: ScriptedServer, number: signal.Signals, arguments: list[str], at: int) -> str:
    """Runs `arguments` until the server has seen `at` calls, then sends the signal; returns what was said on stderr."""
    running = child(*arguments)
    deadline = time.monotonic() + 280
    while server.num_calls < at and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(number)
    _, told = running.communicate(timeout=120)
    assert running.returncode == (75 if number == signal.SIGINT else -number), told
    return without_waits(told)


def test_ctrl_c_in_the_middle_leaves_no_half_file_and_the_next_run_asks_only_the_rest(
    run: Run, calm: Calm, tmp_path: Path
) -> None:
    with ScriptedServer(late) as server:
        ask = [*asking(server, tmp_path / "c.sqlite"), "llm.max_in_flight=3"]
        at = 10 + (calm.num_calls - 10) // 2
        told = stopped_in_the_middle(server, signal.SIGINT, prompts(tmp_path / "out", *ask), at)
        assert re.fullmatch("sixfold: stopped on request.*; run the same command again to continue\n", told), told
        assert server.num_calls < calm.num_calls
        assert contents(tmp_path / "out").items() <= calm.files.items()
        assert "prompts.parquet" not in contents(tmp_path / "out")
        said = run(*prompts(tmp_path / "out", *ask))
        assert said.code == 0, said.err
        assert server.num_calls == calm.num_calls, "no answer was paid for twice"
    assert contents(tmp_path / "out") == calm.files


def test_killed_in_the_middle_only_what_was_out_is_asked_again(run: Run, calm: Calm, tmp_path: Path) -> None:
    with ScriptedServer(late) as server:
        ask = [*asking(server, tmp_path / "c.sqlite"), "llm.max_in_flight=3"]
        at = 10 + (calm.num_calls - 10) // 2
        stopped_in_the_middle(server, signal.SIGKILL, prompts(tmp_path / "out", *ask), at)
        left = contents(tmp_path / "out")
        assert {name: data for name, data in left.items() if name in FILES}.items() <= calm.files.items()
        assert "prompts.parquet" not in left
        said = run(*prompts(tmp_path / "out", *ask))
        assert said.code == 0, said.err
        assert calm.num_calls <= server.num_calls <= calm.num_calls + 3
    assert contents(tmp_path / "out") == calm.files


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(status=401, body=b"bad key"), "set the environment variable OPENAI_API_KEY to a key of this server"),
        (Reply(status=503), "check the server.* and run the same command again"),
        (Reply("I'm sorry, but I can't help with that."), "use another llm.model, or none with llm.provider=offline"),
        (Reply(status=404), "check llm.base_url"),
    ],
    ids=["wrong key", "in trouble", "refuses everything", "wrong address"],
)
@pytest.mark.parametrize("choose", ["clip", "none"])
def test_a_model_that_cannot_be_had_is_one_line_that_says_what_to_do(
    choose: str, reply: Reply, words: str, run: Run, tmp_path: Path
) -> None:
    bare = ["meanings.choose=none", "meanings.real=null", "meanings.clip=null"] if choose == "none" else []
    with ScriptedServer(lambda request: reply) as server:
        said = run(*prompts(tmp_path / "out", *asking(server, tmp_path / "c.sqlite"), "llm.tries=2", *bare))
        assert server.num_calls < 2 * (100 + 16)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert len(re.findall(words, said.err)) == 1, said.err
    assert len(said.err) < 1_000
    assert "prompts.parquet" not in contents(tmp_path / "out")


def test_a_server_that_is_not_there_is_one_line(run: Run, tmp_path: Path) -> None:
    with ScriptedServer(sensible) as server:
        ask = [*asking(server, tmp_path / "c.sqlite"), "llm.tries=2"]
    said = run(*prompts(tmp_path / "out", *ask))
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "(the last: unreachable, '" in said.err


@pytest.mark.parametrize(
    ("verb", "reply", "words"),
    [
        ("meanings", Reply(status=503, body=b"starting"), "http_503, 'starting'"),
        ("meanings", Reply(body=b'{"error": {"message": "rate limit", "code": 429}}'), "http_429, 'rate limit'"),
        ("meanings", Reply("Cranes are lovely."), "not_json, 'Cranes are lovely.'"),
        ("generate", Reply("Cranes are lovely."), "not_json, 'Cranes are lovely.'"),
        ("meanings", Reply(status=400, body=b'{"error": {"message": "No field seed"}}'), "set llm.send_seed=false"),
    ],
    ids=["down", "limited", "nonsense", "nonsense for a run", "picky"],
)
def test_for_a_few_names_too_a_server_without_an_answer_is_an_error_and_no_other_sense_is_taken(
    verb: str, reply: Reply, words: str, run: Run, tmp_path: Path
) -> None:
    few = ["classes.limit=2", "llm.tries=2"]
    with ScriptedServer(lambda request: reply) as server:
        ask = [*asking(server, tmp_path / "c.sqlite"), *few]
        out = ["--out", str(tmp_path / "out")]
        said = run(verb, RECIPE, *(out if verb == "generate" else ()), *ask)
    assert said.code == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == (f"output: {tmp_path / 'out'}\n" if verb == "generate" else "")
    assert not (tmp_path / "out" / "_meta" / "run.json").exists()


def test_only_what_was_not_used_is_listed() -> None:
    use = LlmUse(3, 0, 3, {"empty": 0, "not_json": 1}, 4, {}, 10, 10)
    made = Written([], use, Counter({"class name missing, kept": 0, "repeat": 2}))
    assert made.sentences()[1:] == ["not used: 1 not_json, 2 repeat"]
    assert len(Written([], replace(use, failed={}), Counter({"class name missing, kept": 0})).sentences()) == 1


# names without a sense


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "prompts say the bare name ('a photo of zero'), whichever thing is meant, because nothing is set"),
        (
            {"choose": "clip"},
            "a name of several senses stays bare ('a photo of zero'), because meanings.choose=clip has",
        ),
        ({"choose": "none"}, None),
        ({"choose": "given", "given": {"one": "one, by hand"}}, None),
        ({"choose": "clip", "given": {name: f"{name}, by hand" for name in CLASS_NAMES}}, None),
    ],
    ids=["not set", "clip without images", "none on purpose", "by hand", "clip, and all by hand"],
)
def test_names_that_stay_bare_are_told_once_before_anything_is_made(
    changes: dict[str, Any], said: str | None, run: Run, tmp_path: Path
) -> None:
    recipe = yaml.safe_load(Path(RECIPE).read_text())
    del recipe["meanings"]
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(recipe | ({"meanings": changes} if changes else {})))
    planned = run("generate", str(own), "--dry-run", "--out", str(tmp_path / "out"))
    chosen = run("meanings", str(own))
    drawn = run("prompts", str(own), "--no-report", "--out", str(tmp_path / "out"), *SMALL[:1])
    assert (planned.code, chosen.code, drawn.code) == (0, 0, 0), (planned.err, chosen.err, drawn.err)
    told = [planned.out.replace(str(tmp_path), ""), chosen.err, drawn.err]
    assert [text.count(said or "bare") for text in told] == [1 if said else 0] * 3
    assert [("meanings.real and meanings.clip" in text) for text in told] == [said is not None] * 3


def test_a_prompt_never_says_a_wordnet_id_and_a_number_only_when_it_was_told(run: Run, tmp_path: Path) -> None:
    kind = ["classes.per_class=1", "prompts.kind=template", "prompts.per_class=null", "--no-report"]
    bare = ["meanings.choose=none", "meanings.real=null", "meanings.clip=null"]
    (tmp_path / "ids.txt").write_text("n00000001\nn01440764\n")
    lists = [f"classes.source={tmp_path / 'ids.txt'}"]
    said = run("prompts", RECIPE, "--out", str(tmp_path / "out"), *kind, *bare, *lists)
    assert said.code == 2
    assert "found the WordNet id n00000001 for a name (1 such)" in said.err
    by_hand = ["meanings.choose=given", "meanings.given.0=a thing", "meanings.real=null", "meanings.clip=null"]
    said = run("prompts", RECIPE, "--out", str(tmp_path / "out"), *kind, *by_hand, *lists)
    assert said.code == 0, said.err
    table = PromptTable.load(tmp_path / "out" / "prompts.parquet")
    texts = [table.prompt(class_id, at).text for class_id, num in table.num_per_class().items() for at in range(num)]
    assert not [text for text in texts if re.search("n[0-9]{8}", text)]
    assert [text for text in texts if "tench" in text]
    (tmp_path / "numbers.txt").write_text("1\n2\n10\n")
    numbers = f"classes.source={tmp_path / 'numbers.txt'}"
    said = run("prompts", RECIPE, "--out", str(tmp_path / "out"), *kind, *bare, numbers)
    assert said.code == 0, said.err
    assert said.err.count("prompts will say a number for 3 of 3 names, such as 'a photo of 1'") == 1


# what a run of images takes from it


TINY = ["cluster.in_process=true", "sampler.steps=1", "shards.samples_per_shard=10"]


def generate(out: Path, *overrides: str) -> list[str]:
    return ["generate", RECIPE, "--scale", "0.05x", "--out", str(out), "--no-gallery", *SMALL, *TINY, *overrides]


def test_a_run_takes_a_finished_table(run: Run, calm: Calm, tmp_path: Path) -> None:
    table = calm.out / "prompts.parquet"
    said = run(*generate(tmp_path / "out", f"prompts.file={table}"))
    assert said.code == 0, said.err
    assert (tmp_path / "out" / "_meta" / "prompts.parquet").read_bytes() == table.read_bytes()
    assert not (tmp_path / "out" / "_meta" / "meanings.jsonl").exists()
    store = open_for_reading(str(tmp_path / "out"))
    images = read_table(store, scan_records(store)).to_pylist()
    assert [row["status"] for row in images] == [SUCCESS] * 10
    made = PromptTable.load(table)
    for row in images:
        prompt = made.prompt(row["class_id"], row["prompt_id"])
        assert (row["caption"], row["meaning"], row["context"]) == (prompt.text, prompt.meaning, prompt.context)


def test_a_run_asks_once_and_keeps_what_it_was_told(run: Run, calm: Calm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ScriptedServer(sensible) as server:
        ask = asking(server, tmp_path / "cache" / "c.sqlite")
        first = run(*generate(out, *ask))
        assert (first.code, server.num_calls) == (0, calm.num_calls), first.err
        shutil.rmtree(tmp_path / "cache")
        before = {name: (out / "_meta" / name).read_bytes() for name in ("meanings.jsonl", "prompts.parquet")}
        again = run(*generate(out, *ask))
        assert (again.code, server.num_calls) == (0, calm.num_calls), again.err
        assert "nothing was left to make" in again.out
        for name, data in before.items():
            assert (out / "_meta" / name).read_bytes() == data == calm.files[name]
        other = run(*generate(out, *ask, "llm.model=another"))
        assert other.code == 2
        assert "was made by another recipe (llm.model: " in other.err
        assert other.err.count("\n") == 1
        elsewhere = run(*generate(out, *ask, "llm.max_in_flight=3", "llm.tries=9"))
        assert (elsewhere.code, server.num_calls) == (0, calm.num_calls), elsewhere.err
