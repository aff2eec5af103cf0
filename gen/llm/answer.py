"""A language model's text into a JSON value that fits a schema; pure.

In: the text, the schema. Out: the value as canonical JSON, or BadAnswer with one of REASONS. On disk: nothing.

The value may be the whole text, or stand in a code fence, in prose, or after a model's thoughts (`</think>`). The first
value that fits is taken; a comma behind its last item is let pass. Refused are keys that occur twice, numbers that are
not finite and texts that are not Unicode, so that every value can be written as JSON and read back unchanged.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.recipes.load import canonical_json
from gen.llm.call import BadAnswer, Said

REASONS = ("empty", "refused", "truncated", "not_json", "not_text", "wrong_schema")

MAX_PLACES = 64  # places at which a value may begin, and trailing commas; limits the work on a text full of brackets
_OPENING = re.compile(r"[\[{]")
_TRAILING_COMMA = re.compile(r",\s*[\]}]")
_REFUSAL = re.compile(
    r"\W*(i['’]?m (very )?sorry|sorry|i apologi[sz]e|i can ?not|i can['’]t|i am unable|as an ai)\b", re.I
)


def read_answer(said: Said, schema: Mapping[str, Any]) -> str:
    """The first JSON value in the text that fits the schema, as canonical JSON. Raises BadAnswer if none does."""
    from jsonschema import Draft202012Validator

    text = _behind_thoughts(said.text.strip())
    if said.is_refused:
        raise BadAnswer("refused", said.text)
    validator = Draft202012Validator(schema)
    reason = ""
    for value in _values(text, 1 if said.is_cut else MAX_PLACES):
        try:
            written = _written(value)
        except (UnicodeEncodeError, RecursionError):
            reason = "not_text"
        except TypeError:  # canonical JSON refuses an _Unwritable
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


def _behind_thoughts(text: str) -> str:
    """What follows a reasoning model's thoughts; all of a text that is one JSON value, whatever its strings say."""
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return text.rpartition("</think>")[2].strip()
    return text


def _values(text: str, num_places: int) -> Iterator[Any]:
    """The JSON values of a text: the whole text if it is one, otherwise every outermost object or array in it.

    The inside of a broken value is skipped: the search continues behind the break. If the answer was cut off, only the
    first place is tried.
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
            comma = _trailing_comma(text, error.pos)
            if comma is not None:
                text, at = text[:comma] + text[comma + 1 :], opening.start()
                continue
            at = max(opening.end(), error.pos)
            continue
        except (ValueError, RecursionError):
            at = opening.end()
            continue
        yield value


def _trailing_comma(text: str, broken_at: int) -> int | None:
    """The place of the comma between an item and the closing bracket at which a decoder gave up, if there is one.

    Some versions give up at the comma itself.
    """
    at = broken_at if text[broken_at : broken_at + 1] == "," else len(text[:broken_at].rstrip()) - 1
    if at < 0 or not _TRAILING_COMMA.match(text, at):
        return None
    return None if text[:at].rstrip().endswith(("[", "{", ",", ":")) else at


def _written(value: Any) -> str:
    """Canonical JSON. Raises UnicodeEncodeError for a lone surrogate, RecursionError, TypeError."""
    written = canonical_json(value).decode("ascii")
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return written


class _Unwritable:
    """In the place of a number that is not finite, or of an object with a key that occurs twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Unwritable:
    unique = dict(pairs)
    return unique if len(unique) == len(pairs) else _Unwritable()


def _number(text: str) -> float | _Unwritable:
    number = float(text)
    return number if math.isfinite(number) else _Unwritable()


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_number)
