"""A value in a line of YAML that is written with comments of its own, where a dumper would write none.

In: a text, a number or nothing. Out: the same as YAML. On disk: nothing.
"""

import yaml

WIDTH = 1 << 30  # no line is folded


def scalar(value: str | int | float | None) -> str:
    """The value on one line, quoted where YAML would read another one (`2024`, `on`, `a: b`), also inside braces."""
    text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=WIDTH)
    if len(text.splitlines()) > 1:  # a text with line breaks of its own
        text = yaml.safe_dump([value], default_flow_style=True, default_style='"', width=WIDTH)
    return text.strip()[1:-1]
