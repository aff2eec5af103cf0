"""A value in a line of YAML is read as it was, wherever it stands."""

import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.recipes.scalar import scalar

ODD = [
    "2024",
    "on",
    "null",
    "~",
    "a: b",
    "my,photos",
    "{x}",
    "[y]",
    "# c",
    "a #b",
    "",
    " a ",
    "a\nb",
    "'",
    '"',
    "1e3",
    "é😀",
]


@given(
    value=st.one_of(
        st.sampled_from(ODD),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.integers(),
        st.none(),
    )
)
def test_what_is_written_by_hand_is_read_as_it_was(value: str | int | None) -> None:
    line = scalar(value)
    assert len(line.splitlines()) == 1
    text = f"domains:\n  - {{name: real, source: {line}, quota: 1}}\nname: {line}   # a comment\n"
    assert yaml.safe_load(text) == {"domains": [{"name": "real", "source": value, "quota": 1}], "name": value}
