"""The command line explains itself, and a mistake is one line that says what to do."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import shards.set.verify
import sixfold
from cluster.console import warn
from cluster.process.lease import LEASE, Lease
from cluster.process.lives import begin
from cluster.recipes.load import load_recipe
from docs.bench.cli_reference import PAGE, reference
from gen.edit.recipe import EditRecipe
from gen.run.recipe import Recipe
from retrieve.run.recipe import RetrieveRecipe
from shards.disk.checked_json import to_checked
from shards.disk.home import home
from shards.disk.safe_text import visible
from shards.disk.store import FolderStore, open_store
from shards.set.commit import recover
from shards.set.status import SUMMARY
from tests.support.small_data_set import write_data_set
from train.recipe import TrainRecipe
from train.sweep.plan import SweepSpec

HOME = home()
APP = sixfold.command_line()
GROUP = typer.main.get_command(APP)
VERBS = [
    "init",
    "generate",
    "meanings",
    "prompts",
    "retrieve",
    "pool",
    "embed",
    "index",
    "filter",
    "serve",
    "train",
    "invert",
    "evaluate",
    "measure",
    "sweep",
    "report",
    "plan",
    "edit",
    "verify",
    "repair",
    "subset",
    "show",
    "export",
    "push",
    "submit",
    "status",
    "logs",
    "cancel",
    "simulate",
    "doctor",
]
HIDDEN = ["drain", "node"]  # for scripts alone


def sixfold_says(*arguments: str, cwd: Path = HOME) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sixfold", *arguments], cwd=cwd, capture_output=True, text=True, timeout=200
    )


def mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `sixfold ARGUMENTS` says on stderr, run in this process; it must be one line and exit 2."""
    monkeypatch.chdir(HOME)
    monkeypatch.setattr(sys, "argv", ["sixfold", *arguments])
    with pytest.raises(SystemExit) as ended:
        sixfold.main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert "Traceback" not in said.err
    return said.err


ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\u2066\x85\nwriter    nobody now"


def hostile(value: object) -> object:
    """The same JSON with escapes in every text."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    return f"{value}{ESCAPES}" if isinstance(value, str) else value


def test_what_files_say_is_shown_and_never_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fields of a lease, of a record, of a summary; names of files in a folder of pictures; arguments."""
    out = tmp_path / "out"
    write_data_set(out)
    with Lease.take(open_store(str(out)), "life", warn, lock_folder=out):
        lease = json.loads((out / LEASE).read_text())
        (out / LEASE).write_text(json.dumps(hostile(lease)))
        (out / "00001_stats.json").write_text(json.dumps(hostile(json.loads((out / "00000_stats.json").read_text()))))
        pictures = tmp_path / "pictures"
        (pictures / f"a{ESCAPES[:-20]}").mkdir(parents=True)
        (pictures / f"a{ESCAPES[:-20]}" / f"x.t{ESCAPES[:-20]}").write_bytes(b"x")
        for arguments in (
            ["status", str(out)],
            ["verify", str(out)],
            ["export", str(pictures), "--to", "shards", "--out", str(tmp_path / "made")],
            ["plan", f"recipes/sandbox{ESCAPES}.yaml"],
            ["generate", "recipes/sandbox.yaml", f"name={ESCAPES}"],
            [ESCAPES],
        ):
            monkeypatch.chdir(HOME)
            monkeypatch.setattr(sys, "argv", ["sixfold", *arguments])
            with pytest.raises(SystemExit):
                sixfold.main()
            said = capsys.readouterr()
            told = said.out + said.err
            assert told
            assert [line for line in told.split("\n") if visible(line) != line] == [], arguments
            assert told.count("\nwriter ") == (arguments[0] == "status")
            if arguments[0] == "status":
                assert "⟨U+001B⟩]0;owned" in told


def test_all_verbs_are_there() -> None:
    assert sorted(GROUP.commands) == sorted([*VERBS, *HIDDEN])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_sentence_an_example_and_help_for_every_option(verb: str) -> None:
    command = GROUP.commands[verb]
    sentence, _, rest = command.help.partition("\n")
    assert sentence.strip().endswith(".")
    assert f"Example: `sixfold {verb} " in rest
    for parameter in command.params:
        assert parameter.help, f"{verb}: {parameter.name} has no help"
    assert CliRunner().invoke(APP, [verb, "--help"]).exit_code == 0


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_names_options_and_recipes_that_exist(verb: str) -> None:
    line = shlex.split(re.findall(r"Example: `sixfold (.*)`", GROUP.commands[verb].help)[0])
    command = GROUP.commands[verb]
    context = command.make_context(verb, line[1:], parent=GROUP.make_context("sixfold", [verb]))
    assert line[0] == verb
    for name in ("recipe", "sweep"):
        if name in context.params:
            path = HOME / context.params[name]
            kinds = {"train": TrainRecipe, "invert": TrainRecipe, "sweep": SweepSpec, "retrieve": RetrieveRecipe}
            kinds |= {"edit": EditRecipe}
            kind = kinds.get(verb, Recipe)
            load_recipe(path, kind, context.params["overrides"] or [])


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_has_a_short_name_everywhere(verb: str) -> None:
    short, long = (CliRunner().invoke(APP, [*verb.split(), option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert "-h" in short.stdout


def test_a_dry_run_of_a_recipe_says_what_memory_it_takes_and_how_many_images_share_a_prompt(tmp_path: Path) -> None:
    recipe = [str(HOME / "recipes" / "sandbox.yaml"), "expect=null"]
    said = CliRunner().invoke(APP, ["generate", *recipe, "prompts.per_class=40", "--dry-run"])
    assert re.search(r"\nmemory   about 1\.\d GB a worker: .* of weights as fp32, .*\(an estimate\); ", said.stdout)
    assert "; a prompt makes up to 3 images\n" in said.stdout
    assert "\ntime     unknown, for the recipe has no expect.images_per_s; a run tells it after a minute" in said.stdout


def test_a_recipe_without_out_goes_to_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Asked(Exception):
        pass

    def asked(recipe: object, scale: object, out: str, *_: object) -> None:
        seen.append(out)
        raise Asked

    monkeypatch.setattr("gen.run.run.run", asked)
    recipe = ["generate", str(HOME / "recipes" / "sandbox.yaml"), "name=my-birds"]
    for words in ([], ["--out", "s3://bucket/x"]):
        assert isinstance(CliRunner().invoke(APP, [*recipe, *words]).exception, Asked)
    assert seen == ["out/my-birds", "s3://bucket/x"]


def test_what_stays_idle_of_a_job_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "7", "JOB_NUM_NODES": "2", "GPUS_ON_NODE": "8"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def stop(*_: object, **__: object) -> None:
        raise typer.Exit(0)

    monkeypatch.setattr("gen.run.run.run", stop)
    monkeypatch.setattr("train.run.train", stop)
    monkeypatch.setattr("train.sweep.run.run_sweep", stop)
    monkeypatch.chdir(HOME)
    data = write_data_set(tmp_path / "set").root
    own = [f"data.domains=[{{name: real, source: {data}, quota: 4}}]", "evaluate={}", "model.aux=none"]
    for arguments, words in [
        (["generate", "recipes/sandbox.yaml", "--in-process"], "uses 1; set cluster.workers=auto"),
        (
            ["train", "recipes/sandbox-train.yaml", "--out", str(tmp_path), *own],
            "uses 1; start it with srun, or give --ranks",
        ),
        (["sweep", "recipes/sweeps/scale.yaml", "--out", str(tmp_path)], "uses 0; set cluster.gpus_per_worker, or"),
    ]:
        said = CliRunner().invoke(APP, arguments)
        assert said.exit_code == 0, said.output
        assert said.stderr.count("sixfold: this job has 2 nodes and this run uses one, the other stays idle; ") == 1
        assert words in said.stderr


def test_a_point_of_a_sweep_that_does_not_exist_is_named_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", "recipes/sweeps/scale.yaml", "--points", "0x,7x", "--dry-run"]
    assert "points: found '7x', expected some of 0x, 1x, 2x" in mistake(monkeypatch, capsys, *arguments)
    arguments[3] = "0x, 6x"
    said = CliRunner().invoke(APP, arguments)
    assert re.findall("^point     (.*?):", said.stdout, flags=re.MULTILINE) == ["0x", "6x"]
    assert "\nto train  30 of 30 runs" in said.stdout, "2 points x (2 seeds x 6 settings + 3 seeds)"


def test_verify_beside_a_run_says_that_it_goes_on_and_what_is_not_made_yet(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    store.replace(SUMMARY, to_checked({"scale": "6x", "asked": {"images": 40, "units": 4}, "exit_code": None}))
    going = r"a run is going on here \(host .*\): "
    with Lease.take(store, "life", warn, lock_folder=store.root):
        said = CliRunner().invoke(APP, ["verify", str(store.root)])
        assert said.exit_code == 3
        first, last = said.stdout.splitlines()
        assert re.fullmatch(going + "not made yet are 2 of 4 shards: 00002, 00003", first)
        assert re.fullmatch("2 shards, .*: no damage", last)
    said = CliRunner().invoke(APP, ["verify", str(store.root)])
    assert said.exit_code == 3
    assert "00003 missing: expected by the plan" in said.stdout
    with Lease.take(open_store(str(tmp_path / "begins")), "life", warn, lock_folder=tmp_path / "begins"):
        said = CliRunner().invoke(APP, ["verify", str(tmp_path / "begins")])
        assert said.exit_code == 3
        assert re.fullmatch(going + r"nothing is made yet\n0 shards, .*: no damage\n", said.stdout)


def test_a_run_is_watched_until_nobody_writes_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.watch.WATCH_S", 0.05)
    store = write_data_set(tmp_path / "set")
    lease = Lease.take(store, "life", warn, lock_folder=store.root)
    lease.doing = lambda: "5/20 images"
    lease.beat()
    watching = threading.Thread(
        target=lambda: seen.append(CliRunner().invoke(APP, ["status", str(store.root), "--watch"]))
    )
    seen: list[Any] = []
    watching.start()
    time.sleep(1.0)
    assert not seen, "it waits for the writer"
    lease.doing = lambda: "15/20 images"
    lease.beat()
    time.sleep(1.0)
    (store.root / "00001.tar").write_bytes(b"torn")
    lease.release()
    watching.join(60)
    (said,) = seen
    assert said.exit_code == 3, "as that of the last look"
    lines = said.stderr.splitlines()
    assert len(lines) == len(set(lines)), "a line is said once"
    assert [line.rpartition("this call: ")[2] for line in lines][:2] == ["5/20 images", "15/20 images"]
    assert "writer    nobody now" in said.stdout
    assert CliRunner().invoke(APP, ["status", str(store.root), "--watch"]).stdout == said.stdout, "it has ended already"


def test_the_reference_page_is_what_the_command_line_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `python -m docs.bench.cli_reference`"
    for verb in VERBS:
        assert f"\n## {verb}\n" in reference()


PAGES = [
    *(HOME / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "sandbox/MODEL_CARD.md")),
    *sorted((HOME / "docs").glob("*.md")),
]


def test_every_sixfold_command_and_make_target_of_the_readme_exists() -> None:
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    for verb in re.findall(r"^sixfold +(\w+)", readme, flags=re.MULTILINE):
        assert verb in VERBS
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/TERMS.md"])
def test_every_file_that_a_page_names_exists(name: str) -> None:
    text = (HOME / name).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:cluster|gen|retrieve|shards|train|sandbox|tests|docs|recipes)/[\w./-]+)`", text):
        assert (HOME / path).exists(), path


def test_the_tree_of_the_readme_names_every_room() -> None:
    tree = (HOME / "README.md").read_text(encoding="utf-8").partition("## The rooms of the code")[2].split("```")[1]
    named: set[str] = set()
    package = ""
    for line in tree.strip().splitlines():
        name = line.split()[0].strip("/")
        is_room = line.startswith(" ")  # below its package
        package = package if is_room else name
        named.add(f"{package}/{name}" if is_room else name)
    there = {
        path.parent.relative_to(HOME).as_posix()
        for package in ("cluster", "gen", "retrieve", "shards", "train")
        for path in (HOME / package).rglob("__init__.py")
    }
    assert there <= named, sorted(there - named)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "recipes/none.yaml"], "no such recipe; give a YAML file, for example recipes/"),
        (["generate", "recipes/sandbox.yaml", "sampler.stepz=9"], "unknown key `sampler.stepz`; did you mean `steps`?"),
        (["generate", "recipes/sandbox.yaml", "--scale", "six"], "expected a multiple of the real set such as 6x"),
        (["generate", "recipes/sandbox.yaml", "--scale", "-1x"], "expected a multiple of the real set"),
        (["generate", "recipes/sandbox.yaml", "--scale", "0"], "expected more than 0x"),
        (["generate", "recipes/sandbox.yaml", "classes.source=sandbux", "--dry-run"], "did you mean sandbox?"),
        (
            ["generate", "recipes/sandbox.yaml", "--bogus"],
            "No such option: --bogus (Possible options: --out); `sixfold generate --help` shows them\n",
        ),
        (["meanings", "--scale", "3x"], "No such option: --scale; `sixfold meanings --help` shows them\n"),
        (["export", "x", "--to", "timm"], "Missing option '--out'; `sixfold export --help` shows them\n"),
        (["plan"], "Missing argument 'RECIPE'; `sixfold plan --help` shows them\n"),
        (["plan", "recipes/sandbox.yaml", "--out", "README.md/x"], "/x: README.md is a file, expected a folder; give"),
        (["plan", "recipes/sandbox.yaml", "--out", "README.md/x/y"], "README.md is a file, expected a folder; give"),
        (
            ["sweep", "recipes/sweeps/scale.yaml", "schedule.steps=60"],
            "`schedule.steps` is a field of runs; for all runs of a sweep set `changes.schedule.steps`\n",
        ),
        (["genarate"], "genarate"),
        (["verify", "no/such/folder"], "found no folder, expected a data set"),
        (["status", "recipes"], "found no shards, expected a data set"),
        (["export", "recipes", "--to", "png", "--out", "x"], "png"),
        (
            ["prompts", "recipes/sandbox.yaml", "prompts.kind=template", "prompts.templates=[nothing]"],
            "expected the slot {name}",
        ),
        (["prompts", "recipes/sandbox.yaml", "prompts.per_class=null"], "prompts.per_class: found none"),
        (["prompts", "recipes/sandbox.yaml", "prompts.per_class=9000"], "lower prompts.per_class"),
        (["prompts", "recipes/sandbox.yaml", "prompts.lexicon=nowhere"], "found no such lexicon"),
        (["meanings", "recipes/sandbox.yaml", "meanings.real=nowhere"], "nowhere"),
        (["report", "recipes", "--markdown"], "found no results"),
        (["verify", "recipes"], "found no shards"),
        (["meanings", "recipes/sandbox.yaml", "meanings.overrides=nowhere.yaml"], "meanings.overrides"),
        (["meanings", "recipes/sandbox.yaml", "llm.provider=openai"], "llm.model: found none"),
        (["export", "recipes", "--to", "png", "--out", "x"], "value for '--to': 'png' is not one of 'timm', "),
        (["prompts", "recipes/sandbox.yaml", "--show", "many"], "value for '--show': expected a whole number\n"),
        (["verify", "recipes", "--regenerate", "-1"], "value for '--regenerate': expected at least 0\n"),
        (["generate", "recipes/sandbox.yaml", "--in-process", "--out", ""], "empty text: expected one folder"),
        (["generate", "recipes/sandbox.yml"], "no such recipe; did you mean recipes/sandbox.yaml?"),
        (["generate", "recipes"], "found a folder, expected a recipe"),
        (["generate", "recipes/sandbox.yaml", "sampler.steps", "20"], "found 'sampler.steps', expected key.sub=value"),
        (
            ["generate", "recipes/sandbox.yaml", "sampler.steps=many"],
            'found "many", expected a whole number (denoising',
        ),
        (["generate", "recipes/sandbox.yaml", "classes=sandbox"], "lines below it: source, per_class, total, counts"),
        (["generate", "recipes/sandbox.yaml", "cluster.workers=0"], "command line: cluster.workers: found 0, expected"),
        (["generate", "recipes/sandbox-train.yaml"], "run `sixfold train recipes/sandbox-train.yaml`"),
        (["plan", "recipes/sweeps/scale.yaml"], "run `sixfold sweep recipes/sweeps/scale.yaml`"),
        (["train", "recipes/sandbox.yaml"], "run `sixfold generate recipes/sandbox.yaml`"),
        (["train", "recipes/sweeps/scale.yaml"], "found a recipe of `sixfold sweep`, expected one of `sixfold train`"),
        (["retrieve", "recipes/sandbox.yaml"], "run `sixfold generate recipes/sandbox.yaml`"),
        (["generate", "recipes/sandbox-retrieve.yaml"], "run `sixfold retrieve recipes/sandbox-retrieve.yaml`"),
        (["sweep", "recipes/sandbox-train.yaml"], "run `sixfold train recipes/sandbox-train.yaml`"),
        (["sweep", "recipes/sweeps/scale.yaml", "base=recipes/sandbox.yaml"], "expected one of `sixfold train`"),
        (["pool", "recipes"], "recipes: found no *.parquet and no metadata/*.parquet, expected the tables of a pool"),
        (["pool", "recipes", "blok=3"], "unknown key `blok`; did you mean `block`?"),
        (["embed", "no/such", "--clip", "sandbox/models/clip"], "no/such: found no folder, expected the tables"),
        (["embed", "recipes"], "Missing option '--clip'; `sixfold embed --help` shows them"),
        (["show", "recipes"], "found no shards, expected a data set; check the path"),
        (["repair", "recipes"], "found no shards, expected a data set; check the path"),
        (["verify", "sandbox/real-train"], "sandbox/real-train --to shards --out "),
        (["export", "sandbox/real-train", "--to", "shards", "--out", "x", "--subset", "2x"], "not with --to shards"),
        (["export", "sandbox/real-train", "--to", "timm", "--out", "x", "--licence", "MIT"], "with --to shards only"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in mistake(monkeypatch, capsys, *arguments)


def test_bad_outputs_models_and_class_lists_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "twice.csv").write_text("id,name\n3,crane\n3,crane\n")
    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "model_index.json").write_text('{"_class_name": "EvilPipeline"}')
    sandbox = ["generate", "recipes/sandbox.yaml"]
    out = ["--out", str(tmp_path / "out")]
    for arguments, expected in [
        ([*sandbox, "--out", str(tmp_path / "file")], "found a file, expected a folder"),
        ([*sandbox, "--out", str(tmp_path / "dangling")], "a link that leads nowhere"),
        ([*sandbox, *out, "sampler.model=no/such/model"], "found no such folder"),
        ([*sandbox, *out, f"sampler.model={tmp_path / 'bins'}"], "expected one of StableDiffusionPipeline"),
        ([*sandbox, *out, f"classes.source={tmp_path / 'twice.csv'}"], "expected one class per id"),
        ([*sandbox, *out, "shards.samples_per_shard=9000"], "a shard's table holds 10000"),
        ([*sandbox, *out, "--scale", "1000x", "shards.samples_per_shard=1"], "shards, but a data set holds 100000"),
    ]:
        assert expected in mistake(monkeypatch, capsys, *arguments)
    assert not (tmp_path / "out").exists(), "a refused run leaves nothing behind"


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "recipes/sandbox.yaml", "--out", "OUT"],
        ["prompts", "recipes/sandbox.yaml", "--out", "OUT"],
        ["meanings", "recipes/sandbox.yaml", "--out", "OUT"],
        ["generate", "recipes/sandbox.yaml", "--in-process", "--out", "OUT"],
        ["sweep", "recipes/sweeps/scale.yaml", "--out", "OUT"],
        ["show", "SET", "--out", "OUT"],
        ["export", "SET", "--to", "timm", "--out", "OUT"],
        ["export", "sandbox/real-train", "--to", "shards", "--out", "OUT"],
        ["export", "SET", "--to", "image_folder", "--out", "OUT"],
    ],
    ids=" ".join,
)
def test_an_output_that_cannot_be_written_is_named_with_what_to_do(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data_set(tmp_path / "set")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "out", Path("/proc/out")):
        line = [{"OUT": str(out), "SET": str(tmp_path / "set")}.get(word, word) for word in arguments]
        said = mistake(monkeypatch, capsys, *line)
        assert str(out.parent) in said
        assert re.search("; (give|choose|check)", said), said
        assert "Errno" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_is_in_the_way_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("plan", "meanings"):
        said = mistake(monkeypatch, capsys, verb, "recipes/sandbox.yaml", "--out", str(tmp_path))
        assert "found a folder, expected the name of a file" in said
    assert not list(tmp_path.iterdir())


def test_the_state_of_a_damaged_data_set_is_named_and_exit_3(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    whole = CliRunner().invoke(APP, ["status", str(store.root)])
    assert (whole.exit_code, "2 done, 0 damaged\n" in whole.stdout) == (0, True)
    (store.root / "00001.tar").write_bytes(b"torn")
    damaged = CliRunner().invoke(APP, ["status", str(store.root)])
    assert damaged.exit_code == 3
    assert "1 done, 1 damaged: 00001" in damaged.stdout


def test_the_state_of_a_data_set_tells_its_last_lives_and_why_they_ended(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    for number in range(7):
        with begin(store, f"t{number}-x", "generate", {"SLURM_JOB_ID": "81", "SLURM_RESTART_COUNT": "2"}) as life:
            life.there(number, "shard")
            life.ended(75, "stopped on request: \x1b[31mSIGUSR1")
    told = CliRunner().invoke(APP, ["status", str(store.root)]).stdout
    assert told.count("\nlife ") == 5
    assert "job 81 restart 2: 6 shards there, ended after 0 s with 75: stopped on request: SIGUSR1" in told
    assert ": 1 shard there" not in told


def test_a_change_of_all_runs_of_a_sweep_fits_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["sweep", str(HOME / "recipes/sweeps/scale.yaml"), "base=" + str(HOME / "recipes/sandbox-train.yaml")]
    changes = ["tune={}", "changes.schedule.steps=60", "points.0x.changes.optim.lr=0.5"]
    said = CliRunner().invoke(sixfold.command_line(), [*arguments, *changes, "--dry-run"])
    assert said.exit_code == 0, said.output
    assert re.search("point     0x: 0 of 5 runs done; .*, model.aux=none, optim.lr=0.5\n", said.stdout)


def test_c1_a_stop_while_a_sweep_makes_its_data_is_exit_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes when the prompts are drawn and no unit is made yet."""
    seen: list[str] = []

    def recover_then(store: FolderStore, lives: list[str]) -> object:
        seen.append(store.url)
        os.kill(os.getpid(), signal.SIGTERM)
        return recover(store, lives=lives)

    monkeypatch.setattr("gen.make.work.recover", recover_then)
    monkeypatch.chdir(tmp_path)
    base = f"base={HOME / 'recipes/sandbox-train.yaml'}"
    small = {
        "meanings.choose": "none",
        "prompts.kind": "name",
        "prompts.per_class": None,
        "cluster.in_process": True,
    }
    make = [{"recipe": str(HOME / "recipes/sandbox.yaml"), "out": "data", "changes": small}]
    points = {"0x": {}, "6x": {"changes": {"optim.lr": 0.5}, "make": make}}
    arguments = ["sweep", str(HOME / "recipes/sweeps/scale.yaml"), base, "tune={}", f"points={json.dumps(points)}"]
    monkeypatch.setattr(sys, "argv", ["sixfold", *arguments, "--out", "sweep"])
    with pytest.raises(SystemExit) as ended:
        sixfold.main()
    assert seen
    said = capsys.readouterr().err
    assert ended.value.code == 75, said
    assert "data: stopped on request while the sweep's data was being made; run the same command again to" in said


def test_a_sweep_makes_retrieved_data_sets_with_recipes_of_retrieve(tmp_path: Path) -> None:
    make = [{"recipe": str(HOME / "recipes/sandbox-retrieve.yaml"), "out": "data", "changes": {"pool.source": "gone"}}]
    points = {"0x": {}, "6x": {"changes": {"optim.lr": 0.5}, "make": make}}
    base = f"base={HOME / 'recipes/sandbox-train.yaml'}"
    arguments = ["sweep", str(HOME / "recipes/sweeps/scale.yaml"), base, "tune={}", f"points={json.dumps(points)}"]
    said = CliRunner().invoke(sixfold.command_line(), [*arguments, "--out", str(tmp_path / "sweep")])
    assert "gone: found no folder, expected the tables of a pool" in str(said.exception)


def test_one_of_a_thing_is_not_several(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_shards=1, num_slots=1, num_rejected=0)
    assert (
        CliRunner()
        .invoke(sixfold.command_line(), ["verify", str(store.root)])
        .stdout.startswith("1 shard, 1 sample, 1 row, ")
    )
    (store.root / "00000.tar").unlink()
    assert ": 1 damage; `sixfold repair " in CliRunner().invoke(APP, ["verify", str(store.root)]).stdout
    assert "1 shard moved" in CliRunner().invoke(APP, ["repair", str(store.root)]).stdout


def test_verify_says_what_helps_against_what_it_found(tmp_path: Path) -> None:
    """Making shards again takes no stray away."""
    store = write_data_set(tmp_path / "set", num_shards=3, num_slots=1, num_rejected=0)
    stray, again = "move away what does not belong beside the shards", "run the command that makes the set again"

    def advice() -> str:
        return CliRunner().invoke(APP, ["verify", str(store.root)]).stdout.splitlines()[-1].partition("; ")[2]

    (store.root / "sizes.json").write_text("{}")
    assert advice() == stray
    for name in ("00001.tar", "00001.parquet", "00001_stats.json"):
        (store.root / name).unlink()
    assert advice() == f"{again}, then {stray}"
    (store.root / "sizes.json").unlink()
    assert advice() == again
    (store.root / "00002.tar").unlink()
    assert advice() == f"`sixfold repair {store.root}`"


def test_meanings_and_prompts_want_no_counts(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("auk\ncrane\n")
    bare = ["meanings.choose=none", "prompts.kind=name", "prompts.per_class=null"]
    recipe = [str(HOME / "recipes" / "sandbox.yaml"), f"classes.source={tmp_path / 'names.txt'}", *bare]
    chosen = CliRunner().invoke(APP, ["meanings", *recipe])
    assert (chosen.exit_code, "2 classes: 2 none" in chosen.stdout) == (0, True)
    drawn = CliRunner().invoke(
        sixfold.command_line(), ["prompts", *recipe, "--no-report", "--out", str(tmp_path / "out")]
    )
    assert (drawn.exit_code, "2 prompts for 2 classes" in drawn.stdout) == (0, True)


def test_ctrl_c_is_a_line_and_exit_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_data_set(tmp_path / "set")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shards.set.verify, "_check_shard", interrupted)
    monkeypatch.setattr(sys, "argv", ["sixfold", "verify", str(store.root)])
    with pytest.raises(SystemExit) as ended:
        sixfold.main()
    assert ended.value.code == 75
    assert capsys.readouterr().err == "sixfold: stopped on request; run the same command again\n"


def test_a_full_disk_is_named_even_where_the_system_names_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shards.set.verify, "_check_shard", full)
    assert "the disk that was written to: found no room there; make some" in mistake(
        monkeypatch, capsys, "verify", str(write_data_set(tmp_path / "set").root)
    )


def test_the_version_names_the_code() -> None:
    said = CliRunner().invoke(APP, ["--version"])
    assert said.exit_code == 0
    assert re.fullmatch(r"sixfold \d+\.\d+\.\d+, code [0-9a-f]{12}\n", said.stdout)


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in sixfold_says("--debug", "verify", "no/such/folder").stderr


def test_a_dry_run_prints_plan_space_and_time_and_touches_nothing(tmp_path: Path) -> None:
    said = sixfold_says("generate", "recipes/imagenet-sd15-6x.yaml", "--dry-run", "--out", str(tmp_path / "out"))
    assert said.returncode == 2, "the model is not on this machine, and a run would refuse that"
    assert "is not in the hub cache of this machine; get it with `hf download" in said.stderr
    for words in ("7,687,002", "7,692", "GB", "hours of one worker"):
        assert words in said.stdout
    assert not (tmp_path / "out").exists()


def test_whoever_has_taken_the_name_of_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").write_text("")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.argv = ["sixfold", "doctor"]
import train
import sixfold
sixfold.main()
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, timeout=200)
    assert said.returncode == 2
    assert f"`train` comes from {tmp_path}" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    program = """
import sys
import sixfold
from typer.testing import CliRunner
CliRunner().invoke(sixfold.command_line(), ["generate", "--help"])
print(sorted({"torch", "diffusers", "transformers", "ray", "pyarrow"} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, timeout=200)
    assert said.stdout.strip() == "[]"


def test_make_alone_prints_the_targets() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed here")
    said = subprocess.run(["make"], cwd=HOME, capture_output=True, text=True, timeout=200)
    assert said.returncode == 0
    for target in ("generate", "test", "torture", "bench"):
        assert target in said.stdout
