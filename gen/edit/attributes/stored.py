"""The attributes of all classes as a file, so that every worker draws from the same ones and no one asks again; pure.

In: `ClassAttributes`, or the bytes of a file. Out: the other. On disk (as `attributes.jsonl`, where a run keeps it):
one line of canonical JSON a class, ids ascending. Equal attributes give equal bytes, so their sha256 is what a run's
fingerprint depends on.
"""

from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from cluster.recipes.load import canonical_json
from gen.edit.attributes.draw import ClassAttributes

FILE = "attributes.jsonl"
_LINE = TypeAdapter(ClassAttributes)


def dump_attributes(classes: Sequence[ClassAttributes]) -> bytes:
    """The bytes of the file."""
    ordered = sorted(classes, key=lambda one: one.class_id)
    return b"".join(canonical_json(_LINE.dump_python(one, mode="json")) + b"\n" for one in ordered)


def read_attributes(content: bytes) -> list[ClassAttributes]:
    """The classes in the bytes of a file. Raises ValueError, with the line, for what is not `dump_attributes`' own."""
    classes = []
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            one = _LINE.validate_json(line)
        except ValidationError as error:
            reason = error.errors()[0]
            raise ValueError(
                f"{FILE}, line {number}: {'.'.join(map(str, reason['loc']))}: {reason['msg']}; write it again"
            ) from None
        if dump_attributes([one]) != line:
            raise ValueError(f"{FILE}, line {number}: found more or other than a class's attributes; write it again")
        classes.append(one)
    return classes
