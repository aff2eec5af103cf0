"""The attributes of a run as a file: what is read is what was gathered, or the run stops."""

import pytest

from gen.edit.attributes.draw import draw_attributes
from gen.edit.attributes.gather import gather_attributes
from gen.edit.attributes.spec import AttributeSpec
from gen.edit.attributes.stored import dump_attributes, read_attributes
from shards.labels.classes import Class

CLASSES = [Class(7, "tiger shark", None, 20), Class(3, "Siamese cat", None, 20)]
GATHERED = gather_attributes(CLASSES, AttributeSpec(kinds=("background", "colour"), feasibility="mixed"), None, 0)


def test_what_is_read_is_what_was_gathered_ids_ascending() -> None:
    found = read_attributes(dump_attributes(GATHERED))
    assert found == sorted(GATHERED, key=lambda one: one.class_id)
    assert draw_attributes(found[0], 5, 2, 9) == draw_attributes(GATHERED[1], 5, 2, 9)


def test_the_digest_is_that_of_the_attributes_whatever_their_order_of_classes() -> None:
    assert dump_attributes(GATHERED) == dump_attributes(GATHERED[::-1])
    assert dump_attributes(GATHERED) != dump_attributes(GATHERED[:1])
    other = gather_attributes(CLASSES, AttributeSpec(kinds=("background",)), None, 0)
    assert dump_attributes(GATHERED) != dump_attributes(other)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"feasible":false', b'"feasible":7', r"attributes\.jsonl, line 1: cells\.0\.0\.feasible"),
        (b'"kind":"background"', b'"kind":"place"', "line 1: cells.*kind"),
        (b'"class_id":3', b'"class_id":3,"more":1', "line 1: found more or other"),
        (b'"class_id":3', b'"class_id": 3', "line 1: found more or other"),
        (b'"weight":1.2', b'"weight":"1.2"', "line 1: found more or other"),
        (b'"cells":[[', b'"cells":[[],[', "line 1: .*found cells of 0,"),
        (b"}\n", b"}", "line 1"),
    ],
)
def test_a_file_that_was_changed_is_refused_with_its_line(old: bytes, new: bytes, said: str) -> None:
    content = dump_attributes(GATHERED)
    assert old in content
    with pytest.raises(ValueError, match=said) as error:
        read_attributes(content.replace(old, new, 1))
    assert "\n" not in str(error.value)
