"""Candidates: the senses that a class name may have, as phrases such as "crane, the bird".

In: classes, a lexicon, a language model or None, the run seed. Out: one `Offer` a class. With a language model all come
from it: where it names no sense, nothing stands in, and the caller gets an error. Without one they come from the first
of these that has any: the lexicon's `senses`, WordNet where it is installed, the definitions that timm ships. A class
with a WordNet id has one sense by that id, so WordNet and timm give it one candidate. Nothing is written.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.fan_out.work import JSON
from gen.llm.ask import Ask, Llm
from gen.llm.call import LlmError
from gen.names.wordnet import WordNet, definition_of_id, open_wordnet, phrase, sense_of_id, senses_of
from gen.wording.lexicon import Lexicon
from shards.disk.address import file_path
from shards.disk.safe_text import quoted
from shards.labels.classes import Class

MAX_PHRASE_CHARS = 300  # a longer candidate is no phrase
MAX_PHRASE_WORDS = 20
MAX_LISTED = 3  # names in a message
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
    """Class id -> its candidates, at most ``limit``. ``wordnet_folder`` is used if it is there. Raises LlmError."""
    if llm is not None:
        return _asked(classes, limit, llm, seed)
    wordnet = open_wordnet(file_path(wordnet_folder)) if classes and wordnet_folder is not None else None
    return {one.id: _known(one, limit, lexicon, wordnet) for one in classes}


def _asked(classes: Sequence[Class], limit: int, llm: Llm, seed: int) -> dict[int, Offer]:
    """The model's candidates. Raises LlmError unless it named a sense of every class."""
    offers: dict[int, Offer] = {}
    without: list[str] = []
    for one, answer in zip(classes, llm.ask([meaning_ask(one.name, limit, seed) for one in classes]), strict=True):
        phrases, dropped = clean_candidates(one.name, _listed(answer.value), limit)
        offers[one.id] = Offer(phrases, "llm", dropped)
        if not phrases:
            told = f", {answer.told}" if answer.told else ""
            without.append(f"{quoted(one.name, 40)}: {answer.reason or 'no more than the name'}{told}")
    if without:
        raise LlmError(
            f"meanings: found no sense from the language model for {len(without):,} of {len(classes):,} names "
            f"({'; '.join(without[:MAX_LISTED])}), expected some for each; check the server and run the same command "
            "again, write these by hand (meanings.given), use another llm.model, or none with llm.provider=offline"
        )
    return offers


def _known(one: Class, limit: int, lexicon: Lexicon, wordnet: WordNet | None) -> Offer:
    dropped: Counter[str] = Counter()
    sources: tuple[tuple[CandidateSource, Callable[[], Sequence[str]]], ...] = (
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
