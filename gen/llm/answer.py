"""From what a language model said to a JSON value that fits the schema; pure.

In: the text, the schema. Out: the value as canonical JSON, or BadAnswer with one of REASONS. On disk: nothing.

The value may stand alone, in a fence or inside prose, and after a model's open thoughts (`</think>`). The first value
that fits counts. Keys that occur twice, numbers that are not finite, and texts that are not Unicode are refused, so
that a value can be written as JSON and read back unchanged.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.recipes.load import canonical_json
from gen.llm.call import BadAnswer, Said

REASONS = ("empty", "refused", "truncated", "not_json", "not_text", "wrong_schema")

MAX_PLACES = 64  # where a value may begin; bounds the work on a text of nothing but brackets
_OPENING = re.compile(r"[\[{]")
_REFUSAL = re.compile(
    r"\W*(i['’]?m (very )?sorry|sorry|i apologi[sz]e|i can ?not|i can['’]t|i am unable|as an ai)\b", re.I
)


def read_answer(said: Said, schema: Mapping[str, Any]) -> str:
    """The first JSON value in the text that fits, as canonical JSON. Raises BadAnswer."""
    from jsonschema import Draft202012Validator

    text = said.text.rpartition("</think>")[2].strip()
    if said.is_refused:
        raise BadAnswer("refused", said.text)
    validator = Draft202012Validator(schema)
    reason = ""
    for value in _values(text, 1 if said.is_cut else MAX_PLACES):
        try:
            written = _written(value)
        except (UnicodeEncodeError, RecursionError):
            reason = "not_text"
        except TypeError:  # canonical JSON knows no _Unwritable
            reason = "not_json"
        else:
            if validator.is_valid(value):
                return written
            reason = "wrong_schema"
    if said.is_cut:
        raise BadAnswer("truncated", said.text)
    if not text:
        raise BadAnswer("empty", said.text)
    if not reason:
        raise BadAnswer("refused" if _REFUSAL.match(text) else "not_json", said.text)
    raise BadAnswer(reason, said.text)


def _values(text: str, num_places: int) -> Iterator[Any]:
    """The JSON values of a text: the whole of it, else every outermost object or array.

    What lies inside a broken value is no value of its own: the search goes on behind the break. Of an answer that was
    cut off only the first place is looked at.
    """
    try:
        yield _DECODER.decode(text)
        return
    except (ValueError, RecursionError):
        pass
    at = 0
    for _ in range(num_places):
        opening = _OPENING.search(text, at)
        if opening is None:
            return
        try:
            value, at = _DECODER.raw_decode(text, opening.start())
        except json.JSONDecodeError as error:
            at = max(opening.end(), error.pos)
            continue
        except (ValueError, RecursionError):
            at = opening.end()
            continue
        yield value


def _written(value: Any) -> str:
    """Canonical JSON. Raises UnicodeEncodeError for a lone surrogate, RecursionError, TypeError."""
    written = canonical_json(value).decode("ascii")
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return written


class _Unwritable:
    """Stands where a number is not finite or a key occurs twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unwritable:
    unique = dict(pairs)
    return unique if len(unique) == len(pairs) else _Unwritable()


def _number(text: str) -> float | _Unwritable:
    number = float(text)
    return number if math.isfinite(number) else _Unwritable()


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_number)
