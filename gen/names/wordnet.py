"""WordNet: the senses of a noun, and the sense of a WordNet id.

In: a name, or a WordNet id such as n02012849. Out: senses with their definitions, the most frequent first, and phrases
such as "crane, lifts and moves heavy objects". On disk, read only, and only if they are installed: `index.noun` and
`data.noun` of WordNet 3.0, as in Debian's package wordnet-base; and the definitions of ImageNet's ids in timm, which is
not imported.

    index.noun   crane n 5 4 @ ~ #m + 5 0 10914447 10914331 ...    the lemma, counts, pointer symbols, counts, offsets
    data.noun    02012849 05 n 01 crane 0 004 @ 02000954 n 0000 ... | large long-necked wading bird of ...
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gen.names.noun_phrase import is_plural, noun_phrase
from shards.labels.imagenet import package_folder
from shards.labels.text_file import read_lines

MAX_GLOSS_WORDS = 8  # a prompt has 25 words at most, and more to say than the meaning

# Words that a part of a definition must not end with.
DANGLING = frozenset(("a", "an", "and", "as", "at", "by", "for", "from", "in", "is",
                       "its", "of", "on", "or", "that", "the", "to", "when", "which", "with"))  # fmt: skip
# Endings of plurals and those of the singular, as in WordNet's own look-up.
PLURALS = (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
           ("ies", "y"))  # fmt: skip

# A clause that may be left out begins here, and so the part before it is whole.
_CLAUSE = re.compile(
    r":|, (?=usually|especially|often|generally|chiefly|native|found|used|with|having|which|that|as )|"
    r"(?<![,:] )\b(?:that|which|who|whose|where|when|with|without|having|used|for|from|consisting|containing|similar|"
    r"related|resembling|characterized|designed|worn|bearing|such|seen|distinguished)\b"
)
_ANY_CLAUSE = re.compile(rf"\s*(?:{_CLAUSE.pattern}|,|\b(?:of|in|on|at|to|by|as|and|or)\b)")
_UNFINISHED = re.compile(r".*(?:ed|ing|ly|or|and)|usually|often|etc|various|several|any|used")  # as a last word
_ANY_OF = re.compile(
    r"(?:any|one) of (?:the |a )?(?:various |several |numerous |many |certain |different )?(?:kinds of )?"
)
_AFTER_NOUN = re.compile(rf"\s*(?:{_CLAUSE.pattern}|,)| (?=(?:of|in|on|at|by|to|and|or|as)\b)")
# What says nothing without the words behind it: a breed of dog, small enough to carry, red and white.
_MEASURES = frozenset(
    (*("piece", "breed", "kind", "type", "sort", "form", "variety", "member", "part", "pair", "set", "group", "one"),
     *("species", "genus", "name", "number", "strain", "version", "class", "unit", "end", "side", "top", "enough"))
)  # fmt: skip
_LEADING_ARTICLE = re.compile(r"^(?:an?|the) ")
_WORDNET_ID = re.compile(r"n([0-9]{8})")


@dataclass(frozen=True)
class Sense:
    """One sense of a noun in WordNet."""

    wordnet_id: str
    words: tuple[str, ...]  # all names of this sense
    gloss: str  # the definition, then examples in quotes


@dataclass(frozen=True)
class WordNet:
    """The contents of the two noun files (20 MB), and the folder they come from."""

    index: bytes
    data: bytes
    where: str


def open_wordnet(folder: Path) -> WordNet | None:
    """The files of `folder`; None if WordNet is not installed there."""
    try:
        return WordNet((folder / "index.noun").read_bytes(), (folder / "data.noun").read_bytes(), str(folder))
    except FileNotFoundError:
        return None


def senses_of(name: str, wordnet: WordNet) -> tuple[Sense, ...]:
    """The senses of a noun, the most frequent first; () for a word that is not in WordNet.

    If the noun itself is not known, the senses of its singular. Raises ValueError if the two files do not fit together.
    """
    lemma = "_".join(name.lower().split())
    singulars = [lemma.removesuffix(many) + one for many, one in PLURALS if lemma.endswith(many) and lemma != many]
    for known in (lemma, *singulars):
        offsets = _offsets(known, wordnet)
        if offsets:
            return tuple(_sense_at(offset, wordnet) for offset in offsets)
    return ()


def sense_of_id(wordnet_id: str, wordnet: WordNet) -> Sense | None:
    """The sense with this id; None if there is none. The digits of an id are its byte offset in WordNet 3.0's file."""
    match = _WORDNET_ID.fullmatch(wordnet_id)
    if match is None or not wordnet.data.startswith(match.group(1).encode() + b" ", int(match.group(1))):
        return None
    return _sense_at(match.group(1), wordnet)


def _offsets(lemma: str, wordnet: WordNet) -> list[str]:
    key = f"\n{lemma} n ".encode()
    at = wordnet.index.find(key)
    if at < 0 or " " in lemma:
        return []
    fields = wordnet.index[at + 1 : wordnet.index.find(b"\n", at + 1)].decode("utf-8", "replace").split()
    count = int(fields[2]) if fields[2].isdecimal() else 0
    offsets = fields[-count:] if count else []
    if not offsets or not all(len(offset) == 8 and offset.isdecimal() for offset in offsets):
        raise ValueError(
            f"{wordnet.where}/index.noun: found a broken line for {lemma!r}, expected offsets; install it again"
        )
    return offsets


def _sense_at(offset: str, wordnet: WordNet) -> Sense:
    start = int(offset)
    line = wordnet.data[start : wordnet.data.find(b"\n", start)].decode("utf-8", "replace")
    facts, bar, gloss = line.partition(" | ")
    fields = facts.split(" ")
    if not bar or fields[0] != offset or len(fields) < 6 or not re.fullmatch("[0-9a-f]{2}", fields[3]):
        raise ValueError(
            f"{wordnet.where}/data.noun: found no sense at byte {offset}, expected one; index.noun is of another "
            "release: install both again"
        )
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]  # after each word comes a number
    return Sense(f"n{offset}", tuple(word.replace("_", " ") for word in words), gloss.strip())


def definition_of_id(wordnet_id: str) -> str | None:
    """The definition of an ImageNet id in timm's table; None if timm is not installed or has no such id."""
    return _timm_definitions().get(wordnet_id)


@cache
def _timm_definitions() -> Mapping[str, str]:
    try:
        info = package_folder("timm") / "data" / "_info"
    except ValueError:  # timm is not installed
        return {}
    path = info / "imagenet_synset_to_definition.txt"
    return dict(line.split("\t", 1) for line in read_lines(path) if "\t" in line) if path.is_file() else {}


def phrase(name: str, gloss: str) -> str:
    """`name`, a comma, and what its definition says it is: "crane, a large long-necked wading bird".

    Brackets, examples and later statements go. The rest ends where a clause of the definition ends, at the last such
    place within MAX_GLOSS_WORDS words; a definition without such a place gives the name alone.
    """
    told = re.sub(r"\([^()]*\)", " ", gloss.partition('"')[0])
    statements = [" ".join(part.split()) for part in told.split(";")]
    what = _whole_part(_one_of_them(next((part for part in statements if part), "")))
    return f"{name}, {noun_phrase(what)}" if what else name


def _one_of_them(statement: str) -> str:
    """ "any of various web-footed turtles" is "web-footed turtle": what is said of a kind, said of one."""
    many = _ANY_OF.match(statement)
    if many is None:
        statement = _LEADING_ARTICLE.sub("", statement)
    head, tail = _split_head(statement[many.end() if many else 0 :])
    if not is_plural(head):
        return head + tail
    for plural, singular in sorted(PLURALS, key=lambda pair: -len(pair[0])):
        if head.endswith(plural):
            return head.removesuffix(plural) + singular + tail
    return head + tail


def _split_head(text: str) -> tuple[str, str]:
    found = _ANY_CLAUSE.search(text)
    return (text[: found.start()], text[found.start() :]) if found else (text, "")


def _whole_part(statement: str) -> str:
    """The longest beginning that has at most MAX_GLOSS_WORDS words and ends with a clause, or with the noun that says
    what it is; "" if there is none."""
    ends = [match.start() for match in _CLAUSE.finditer(statement)] + [len(statement)]
    whole = [statement[:end].rstrip(" ,:.") for end in ends]
    head = _AFTER_NOUN.split(statement, maxsplit=1)[0].rstrip(" ,:.")
    joined = statement[len(head) :].lstrip().startswith(("and ", "or ", "to ", "as ", ","))
    if head and not joined and head.split()[-1] not in _MEASURES:
        whole.append(head)
    fitting = [part for part in whole if _is_whole(part)]
    return max(fitting, key=len, default="")


def _is_whole(part: str) -> bool:
    words = part.split()
    return (
        0 < len(words) <= MAX_GLOSS_WORDS
        and words[-1] not in DANGLING | _MEASURES
        and _UNFINISHED.fullmatch(words[-1]) is None
    )
