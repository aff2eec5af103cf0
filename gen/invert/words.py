"""Which new word stands for which class, and what a real picture of a class is said to show.

In: an `InvertSpec`, the classes of a data set. Out: `Words`. On disk: reads the file of meanings. Does not import
torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gen.invert.spec import InvertSpec, meanings_file
from gen.model.style_token import MAX_WORD, WORD_PATTERN, Word
from gen.wording.parts import Wording
from shards.disk.checked_json import plain_json
from shards.disk.regular import read_regular
from shards.disk.safe_text import quoted


@dataclass(frozen=True)
class Words:
    """All new words in their order, and the texts of each class."""

    words: tuple[Word, ...]
    word_of: Mapping[int, str]  # class id -> its word
    texts: Mapping[int, tuple[str, ...]]  # class id -> what a picture of it shows, by each template
    plain: Mapping[int, str]  # class id -> the first text without any new word


def words_for(spec: InvertSpec, names: Mapping[int, str]) -> Words:
    """The words for classes (id -> name). Raises ValueError for a class without a group, or with a bad name."""
    by_group = {name: group for group, members in (spec.groups or {}).items() for name in members}
    stem = spec.token.strip("<>")
    word_of: dict[int, str] = {}
    for class_id, name in sorted(names.items()):
        if spec.tokens == "dataset":
            word_of[class_id] = spec.token
        elif spec.tokens == "class":
            word_of[class_id] = f"<{stem}-{class_id}>"
        elif name in by_group:
            word_of[class_id] = f"<{stem}-{by_group[name]}>"
        else:
            raise ValueError(
                f"invert.groups: found no group with the class {quoted(name, 60)} (id {class_id}), expected each class "
                "of the data in one; add it"
            )
    missing = sorted(by_group.keys() - set(names.values()))
    if missing:
        raise ValueError(
            f"invert.groups: found the class {quoted(missing[0], 60)}, which the data do not have, expected names of "
            "theirs; check the name"
        )
    for word in dict.fromkeys(word_of.values()):
        if not re.fullmatch(WORD_PATTERN, word):
            raise ValueError(
                f"invert.token: found {quoted(spec.token, 60)}, of which a class makes the word {quoted(word, 60)}, "
                f"expected words of at most {MAX_WORD} characters between the brackets; shorten it"
            )
    words = []
    for word in dict.fromkeys(word_of.values()):
        ids = tuple(class_id for class_id in sorted(names) if word_of[class_id] == word)
        is_all = spec.tokens == "dataset"
        own = None if is_all else tuple(dict.fromkeys(names[class_id] for class_id in ids))
        words.append(Word(word=word, classes=own, ids=None if is_all else ids))
    meanings = {} if spec.meanings is None else read_meanings(spec.meanings, names)
    texts, plain = {}, {}
    for class_id, name in names.items():
        said = meanings.get(class_id) or name
        texts[class_id] = tuple(
            Wording(template, {"token": word_of[class_id]}).text(said) for template in spec.templates
        )
        plain[class_id] = f"a photo of {said}"
    return Words(tuple(words), word_of, texts, plain)


def read_meanings(name: str, names: Mapping[int, str]) -> dict[int, str]:
    """Class id -> the phrase that says which sense is meant, of the classes that have one.

    Raises ValueError for a file of other classes than these (id -> name).
    """
    file = meanings_file(name)
    found: dict[int, str] = {}
    for number, line in enumerate(read_regular(file).splitlines(), start=1):
        try:
            row = plain_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("class_id"), int):
            raise ValueError(f"{file}:{number}: found no meaning, expected a line of `sixfold meanings --out`")
        class_id, phrase = row["class_id"], row.get("phrase")
        if class_id not in names:
            continue
        if row.get("class_name") != names[class_id]:
            raise ValueError(
                f"{file}:{number}: found {quoted(str(row.get('class_name')), 60)} as class {class_id}, expected "
                f"{quoted(names[class_id], 60)} as in the data; give the meanings of these classes (invert.meanings)"
            )
        if isinstance(phrase, str) and phrase.strip():
            found[class_id] = phrase
    return found
