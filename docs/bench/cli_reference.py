"""Writes docs/cli.md from the command line itself: `python -m docs.bench.cli_reference`; a test compares the two.

In: the Typer app. Out and on disk: docs/cli.md.
"""

from typing import Any

import typer.main

from shards.disk.home import home
from sixfold import __doc__ as about
from sixfold import command_line

PAGE = home() / "docs" / "cli.md"


def reference() -> str:
    group: Any = typer.main.get_command(command_line())
    lines = ["# Command line", "", *_paragraphs(str(about)), ""]
    lines += ["Options before the verb:", "", *_table(group.params), "", "Every verb has `-h`, `--help`.", ""]
    for name, command in group.commands.items():
        usage = " ".join(["sixfold", name, *command.collect_usage_pieces(group.make_context("sixfold", [name]))])
        lines += [f"## {name}", "", *_paragraphs(command.help), "", f"    {usage}", ""]
        lines += [*_table(command.params), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(parameters: list[Any]) -> list[str]:
    rows = [f"| {_names(one)} | {one.help} | {_default(one)} |" for one in parameters if one.name != "help"]
    return ["| option | meaning | default |", "|---|---|---|", *rows]


def _paragraphs(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    return ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    if parameter.default is None:
        return "none"
    if isinstance(parameter.default, bool):
        return "on" if parameter.default else "off"
    return f"`{parameter.default}`"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
