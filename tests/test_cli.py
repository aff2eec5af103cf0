"""The command line explains itself, and a mistake is one line that says what to do."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import sixfold
from cluster.code import home
from docs.cli_reference import PAGE, reference

HOME = home()
GROUP = typer.main.get_command(sixfold.app)
VERBS = [
    "generate",
    "meanings",
    "prompts",
    "train",
    "sweep",
    "report",
    "plan",
    "verify",
    "repair",
    "show",
    "export",
    "status",
    "doctor",
]


def sixfold_says(*arguments: str, cwd: Path = HOME) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sixfold", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
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


def test_all_verbs_are_there() -> None:
    assert sorted(GROUP.commands) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_sentence_an_example_and_help_for_every_option(verb: str) -> None:
    command = GROUP.commands[verb]
    sentence, _, rest = command.help.partition("\n")
    assert sentence.strip().endswith(".")
    assert f"Example: `sixfold {verb} " in rest
    for parameter in command.params:
        assert parameter.help, f"{verb}: {parameter.name} has no help"
    assert CliRunner().invoke(sixfold.app, [verb, "--help"]).exit_code == 0


def test_the_reference_page_is_what_the_command_line_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `python -m docs.cli_reference`"
    for verb in VERBS:
        assert f"\n## {verb}\n" in reference()


def test_every_sixfold_command_and_every_link_of_the_readme_exists() -> None:
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    for verb in re.findall(r"^sixfold +(\w+)", readme, flags=re.MULTILINE):
        assert verb in VERBS
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for page in [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "recipes/none.yaml"], "no such recipe; give a YAML file, for example recipes/"),
        (["generate", "recipes/sandbox.yaml", "sampler.stepz=9"], "unknown key `sampler.stepz`; did you mean `steps`?"),
        (["generate", "recipes/sandbox.yaml", "--scale", "six"], "expected a multiple of the real set such as 6x"),
        (["generate", "recipes/sandbox.yaml", "--scale", "-1x"], "expected a multiple of the real set"),
        (["generate", "recipes/sandbox.yaml", "--scale", "0"], "expected more than 0x"),
        (["generate", "recipes/sandbox.yaml", "classes.source=sandbux", "--dry-run"], "did you mean sandbox?"),
        (["generate", "recipes/sandbox.yaml", "--bogus"], "No such option: --bogus"),
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
        (["train", "recipes/sandbox-train.yaml", "optim.lrr=1"], "did you mean `lr`"),
        (["meanings", "recipes/sandbox.yaml", "meanings.overrides=nowhere.yaml"], "meanings.overrides"),
        (["meanings", "recipes/sandbox.yaml", "llm.provider=openai"], "llm.model: found none"),
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


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in sixfold_says("--debug", "verify", "no/such/folder").stderr


def test_a_dry_run_prints_plan_space_and_time_and_touches_nothing(tmp_path: Path) -> None:
    said = sixfold_says("generate", "recipes/imagenet-sd15-6x.yaml", "--dry-run", "--out", str(tmp_path / "out"))
    assert said.returncode == 0, said.stderr
    for words in ("7,687,002", "7,692", "GB", "hours of one worker"):
        assert words in said.stdout
    assert not (tmp_path / "out").exists()


def test_whoever_shadows_a_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").write_text("")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.argv = ["sixfold", "doctor"]
import sixfold
sixfold.main()
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, timeout=60)
    assert said.returncode == 2
    assert f"`train` comes from {tmp_path}" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    program = """
import sys
import sixfold
from typer.testing import CliRunner
CliRunner().invoke(sixfold.app, ["generate", "--help"])
print(sorted({"torch", "diffusers", "transformers", "ray", "pyarrow"} & set(sys.modules)))
"""
    said = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == "[]"


def test_make_alone_prints_the_targets() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed here")
    said = subprocess.run(["make"], cwd=HOME, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0
    for target in ("generate", "test", "torture", "bench"):
        assert target in said.stdout
