"""Candidates: the senses that a class name may have, as phrases such as "crane, the bird".

In: classes, a lexicon, a language model or None, the run seed. Out: one `Offer` a class. Nothing is written.

Without a language model, senses that a lexicon lists are all there are; with one they are left out. Otherwise
candidates are the bare name (see `Offer.compared`) and

    the sense of the class's WordNet id, as glosses.yaml or its definition tells it
    the other senses of the same name, from ImageNet-21k's table in timm, and from WordNet where it is installed
    what a language model names; where it names no sense, nothing stands in, and the caller gets an error

and real images decide. Without images a WordNet id decides: its sense is said if the name needs it (`gen.names.gloss`).
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.fan_out.work import JSON
from gen.llm.ask import Ask, Llm
from gen.llm.call import LlmError
from gen.names.gloss import needed_gloss, other_glosses, own_gloss
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

    name: str
    phrases: tuple[str, ...]  # senses, without the bare name
    source: CandidateSource | None
    dropped: Counter[str]
    has_id: bool = False  # whether a WordNet id says which sense is meant
    needed: str | None = None  # the sense of that id, where the bare name does not say enough

    @property
    def compared(self) -> tuple[str, ...]:
        """What real images choose from: the bare name, then the phrases.

        Without the bare name where somebody listed the senses of this very name, in a lexicon or by a language model:
        CLIP puts an ambiguous name near the pictures of each of its senses (in the sandbox nearer than "zero, the face
        of a tile" is to tiles), so it would win and tell nothing.
        """
        listed = self.source in ("lexicon", None) or (self.source == "llm" and not self.has_id)
        return self.phrases if listed else (self.name, *self.phrases)


def offers_of(
    classes: Sequence[Class],
    limit: int,
    wordnet_folder: str | None,
    lexicon: Lexicon,
    llm: Llm | None,
    seed: int,
    among: Sequence[Class] | None = None,
) -> dict[int, Offer]:
    """Class id -> its candidates, at most ``limit``. ``wordnet_folder`` is used if it is there. ``among``: all classes
    of the list, if ``classes`` are a part of it; a name that two of them share says too little. Raises LlmError."""
    wordnet = open_wordnet(file_path(wordnet_folder)) if classes and wordnet_folder is not None else None
    times = Counter(one.name.casefold() for one in (classes if among is None else among))
    shared = {name for name, count in times.items() if count > 1}
    known = {one.id: _known(one, limit, lexicon, wordnet, shared) for one in classes}
    return known if llm is None else _asked(classes, known, limit, llm, seed)


def _asked(classes: Sequence[Class], known: Mapping[int, Offer], limit: int, llm: Llm, seed: int) -> dict[int, Offer]:
    """The model's candidates, behind those of a WordNet id. Raises LlmError unless it named a sense of every class."""
    offers: dict[int, Offer] = {}
    without: list[str] = []
    for one, answer in zip(classes, llm.ask([meaning_ask(one.name, limit, seed) for one in classes]), strict=True):
        listed = _listed(answer.value)
        by_id = known[one.id].phrases if known[one.id].has_id else ()
        phrases, dropped = clean_candidates(one.name, [*by_id, *listed], limit)
        offers[one.id] = replace(known[one.id], phrases=phrases, source="llm", dropped=dropped)
        if not clean_candidates(one.name, listed, limit)[0]:
            told = f", {answer.told}" if answer.told else ""
            without.append(f"{quoted(one.name, 40)}: {answer.reason or 'no more than the name'}{told}")
    if without:
        raise LlmError(
            f"meanings: found no sense from the language model for {len(without):,} of {len(classes):,} names "
            f"({'; '.join(without[:MAX_LISTED])}), expected some for each; check the server and run the same command "
            "again, write these by hand (meanings.given), use another llm.model, or none with llm.provider=offline"
        )
    return offers


def _known(one: Class, limit: int, lexicon: Lexicon, wordnet: WordNet | None, shared: Collection[str]) -> Offer:
    """What tables say: the lexicon's senses if it has any, else those of the id and of the name."""
    listed, dropped = clean_candidates(one.name, lexicon.senses.get(one.name, ()), limit)
    if listed:
        return Offer(one.name, listed, "lexicon", dropped)
    known = sense_of_id(one.wordnet_id, wordnet) if one.wordnet_id is not None and wordnet is not None else None
    has_id = known is not None or (one.wordnet_id is not None and definition_of_id(one.wordnet_id) is not None)
    own = own_gloss(one) or (phrase(one.name, known.gloss) if known is not None else None)
    senses = senses_of(one.name, wordnet) if wordnet is not None else ()
    installed = [phrase(one.name, sense.gloss) for sense in senses if sense.wordnet_id != one.wordnet_id]
    others = [*other_glosses(one), *installed] if has_id or not installed else installed
    phrases, dropped = clean_candidates(one.name, [*([own] if own else []), *others], limit)
    source: CandidateSource = "wordnet" if installed or known is not None else "timm"
    return Offer(one.name, phrases, source if phrases else None, dropped, has_id, needed_gloss(one, shared))


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
