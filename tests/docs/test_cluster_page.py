"""docs/cluster.md: every command in it is one of ours with options that exist, every block of settings is read."""

import re
import shlex

import pytest
import typer.main
import yaml

import sixfold
from cluster.recipes.site import SiteSpec
from cluster.submit.call import VERBS, parse_target
from shards.disk.home import home

PAGE = (home() / "docs" / "cluster.md").read_text(encoding="utf-8")
GROUP = typer.main.get_command(sixfold.command_line())


def commands() -> list[str]:
    """Calls of our program: lines of blocks, and those in the text that give a verb."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", PAGE, flags=re.M | re.S)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(sixfold [a-z][^`]*)`", PAGE)
    return sorted({line for line in [*lines, *inline] if line.startswith("sixfold ") and "…" not in line})


def settings() -> list[str]:
    return re.findall(r"^ *```yaml\n(.*?)^ *```$", PAGE, flags=re.M | re.S)


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_page_has_options_that_exist(line: str) -> None:
    verb, *words = shlex.split(line.replace("OUT", "out").replace("VERB RECIPE", "generate r.yaml"))[1:]
    words = ["slurm" if word == "WHERE" else word for word in words]
    command = GROUP.commands[verb]  # type: ignore[attr-defined]
    context = command.make_context(verb, words, resilient_parsing=not words) if words else None
    if verb == "submit" and context is not None and not context.params["init"]:
        assert context.params["verb"] in VERBS
        to = context.params["to"].replace("HOST:PORT", "head:6379").replace("HOST", "head")
        assert parse_target(to)


def test_the_page_names_every_verb_that_may_be_submitted() -> None:
    *others, last = (f"`{verb}`" for verb in VERBS)
    assert f"for {', '.join(others)} and {last}:" in PAGE


def test_there_are_commands_for_every_place() -> None:
    said = " ".join(commands())
    for place in ("--init", "--to slurm", "--to job:", "--to k8s", "--to cloud", "status", "logs", "cancel", "doctor"):
        assert place in said or place in PAGE, place
    assert len(commands()) >= 12


@pytest.mark.parametrize("text", settings())
def test_a_block_of_settings_is_read(text: str) -> None:
    assert SiteSpec.model_validate(yaml.safe_load(re.sub(r"^ +", "", text, flags=re.M) if text[0] == " " else text))


def test_a_containers_settings_in_the_text_are_read() -> None:
    found = re.findall(r"`(container: \{.*?\})`", PAGE)
    assert found
    for text in found:
        assert SiteSpec.model_validate(yaml.safe_load(text)).container


def test_make_takes_the_same_word() -> None:
    assert "CLUSTER=slurm" in PAGE
    makefile = (home() / "Makefile").read_text(encoding="utf-8")
    assert "submit $(1) $(2) --to $(CLUSTER)" in makefile
