"""Candidates: the senses that a class name may have, as phrases such as "crane, the bird".

In: classes, a lexicon, a language model or None, the run seed. Out: one `Offer` a class, from the first of these that
has any: the language model, the lexicon's `senses`, WordNet where it is installed, the definitions that timm ships. A
class with a WordNet id has one sense by that id, so WordNet and timm give it one candidate. Nothing is written.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.fan_out.work import JSON
from gen.llm.ask import Ask, Llm
from gen.names.wordnet import WordNet, definition_of_id, open_wordnet, phrase, sense_of_id, senses_of
from gen.wording.lexicon import Lexicon
from shards.labels.classes import Class

MAX_PHRASE_CHARS = 300  # a longer candidate is no phrase
MAX_PHRASE_WORDS = 20
CandidateSource = Literal["llm", "lexicon", "wordnet", "timm"]
SYSTEM = (
    "You list the different things that a name can stand for. Each answer is a short phrase that starts with the name, "
    'then a comma, then what kind of thing is meant, such as "crane, the bird" and "crane, the lifting machine". Only '
    "things that a photograph can show, the most common first, no two the same."
)

_BULLET = re.compile(r"^(?:[-*\u2022]|[0-9]{1,2}[.)])\s+")


@dataclass(frozen=True)
class Offer:
    """The candidates of one class."""

    phrases: tuple[str, ...]
    source: CandidateSource | None
    dropped: Counter[str]


def offers_of(
    classes: Sequence[Class], limit: int, wordnet_folder: str | None, lexicon: Lexicon, llm: Llm | None, seed: int
) -> dict[int, Offer]:
    """Class id -> its candidates, at most ``limit``. ``wordnet_folder`` is used if it is there."""
    asked: list[tuple[list[str], str | None]] = [([], None)] * len(classes)
    if llm is not None and classes:
        answers = llm.ask([meaning_ask(one.name, limit, seed) for one in classes])
        asked = [(_listed(answer.value), answer.reason) for answer in answers]
    wordnet = open_wordnet(Path(wordnet_folder)) if classes and wordnet_folder is not None else None
    return {
        one.id: _offer(one, listed, failure, limit, lexicon, wordnet)
        for one, (listed, failure) in zip(classes, asked, strict=True)
    }


def _offer(
    one: Class, listed: Sequence[str], failure: str | None, limit: int, lexicon: Lexicon, wordnet: WordNet | None
) -> Offer:
    dropped = Counter({f"llm_{failure}": 1} if failure else {})
    sources: tuple[tuple[CandidateSource, Callable[[], Sequence[str]]], ...] = (
        ("llm", lambda: listed),
        ("lexicon", lambda: lexicon.senses.get(one.name, ())),
        ("wordnet", lambda: _wordnet_phrases(one, wordnet)),
        ("timm", lambda: _timm_phrases(one)),
    )
    for source, read in sources:
        phrases, refused = clean_candidates(one.name, read(), limit)
        dropped += refused
        if phrases:
            return Offer(phrases, source, dropped)
    return Offer((), None, dropped)


def meaning_ask(name: str, count: int, seed: int) -> Ask:
    """The question for one name."""
    schema: dict[str, JSON] = {
        "type": "object",
        "properties": {
            "meanings": {
                "type": "array",
                "items": {"type": "string", "maxLength": 4 * MAX_PHRASE_CHARS},
                "minItems": 1,
                "maxItems": 4 * count,
            }
        },
        "required": ["meanings"],
        "additionalProperties": False,
    }
    # the name is quoted as JSON: it is data, whatever it says
    user = f"The name is {json.dumps(name, ensure_ascii=False)}. List up to {count} things that it can stand for."
    return Ask(purpose="meanings", system=SYSTEM, user=user, schema=schema, seed=seed)


def _listed(value: object) -> list[str]:
    """The phrases in an answer that kept to the schema; none in a failed one."""
    found = value.get("meanings") if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _wordnet_phrases(one: Class, wordnet: WordNet | None) -> list[str]:
    if wordnet is None:
        return []
    known = sense_of_id(one.wordnet_id, wordnet) if one.wordnet_id is not None else None
    senses = (known,) if known is not None else senses_of(one.name, wordnet)
    return [phrase(one.name, sense.gloss) for sense in senses]


def _timm_phrases(one: Class) -> list[str]:
    definition = definition_of_id(one.wordnet_id) if one.wordnet_id is not None else None
    return [phrase(one.name, definition)] if definition is not None else []


def clean_candidates(name: str, texts: Sequence[str], limit: int) -> tuple[tuple[str, ...], Counter[str]]:
    """At most `limit` distinct phrases that hold the name, one line each, and what was dropped, by reason.

    Control and format characters go, a list's bullet goes, words after the twentieth go, and a phrase without the name
    gets it in front.
    """
    kept: dict[tuple[str, ...], str] = {}
    dropped: Counter[str] = Counter()
    bare = _words(name)
    for text in texts:
        if len(text) > 4 * MAX_PHRASE_CHARS:
            dropped["candidate_too_long"] += 1
            continue
        candidate = _one_line(text)
        if len(candidate) > MAX_PHRASE_CHARS:
            dropped["candidate_too_long"] += 1
            continue
        candidate = " ".join(_BULLET.sub("", candidate).split(" ")[:MAX_PHRASE_WORDS]).rstrip(" ,;:.")
        if not _holds(candidate, name):
            candidate = f"{name}, {candidate}" if candidate else ""
        words = _words(candidate)
        if not words or words == bare:
            dropped["candidate_says_nothing"] += 1
        elif words in kept:
            dropped["candidate_duplicate"] += 1
        elif len(kept) == limit:
            dropped["candidate_surplus"] += 1
        else:
            kept[words] = candidate
    return tuple(kept.values()), dropped


def _one_line(text: str) -> str:
    kept = []
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category not in ("Cf", "Cs", "Co", "Cn"):
            kept.append(char)
    return " ".join("".join(kept).split())


def _words(text: str) -> tuple[str, ...]:
    """What a text says, without case and punctuation; its characters if it has no letter or digit at all."""
    return tuple(re.findall(r"\w+", text.casefold())) or tuple("".join(text.split()))


def _holds(text: str, name: str) -> bool:
    if not re.search(r"\w", name):
        return name in text
    words, wanted = _words(text), _words(name)
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1))
