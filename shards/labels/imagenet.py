"""ImageNet's classes, from the tables that the installed timm (WordNet ids, lemmas) and open_clip (names) carry.

In: nothing. Out: ids and names. On disk: the two packages' own files, read only; neither package is imported.
"""

import ast
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from shards.labels.text_file import read_lines, read_text

_WORDNET_ID = re.compile(r"n[0-9]{8}")


def is_wordnet_id(text: str) -> bool:
    """``n02012849``: n and 8 digits."""
    return _WORDNET_ID.fullmatch(text) is not None


@cache
def imagenet_names() -> Mapping[str, str]:
    """WordNet id -> name of ImageNet-1k's classes, in the order of their class ids 0..999.

    The two tables meet by position only, so the names are held against WordNet's own (timm carries those too): they
    share a word for 959 of 1000 classes, and for 135 when shifted by one. Raises ValueError if they do not fit.
    """
    info = package_folder("timm") / "data" / "_info"
    ids = read_lines(info / "imagenet_synsets.txt")
    names = _literal(package_folder("open_clip") / "zero_shot_metadata.py", "IMAGENET_CLASSNAMES")
    lemmas = wordnet_lemmas()
    if len(ids) != 1000 or ids != sorted(set(ids)) or len(names) != 1000 or not all(map(is_wordnet_id, ids)):
        raise ValueError(
            f"imagenet-1k: found {len(ids)} ids (timm) and {len(names)} names (open_clip), expected 1000 sorted "
            "distinct ids and 1000 names; install the versions of requirements.lock"
        )
    alike = sum(
        bool(_words(name) & _words(lemmas.get(wordnet_id, ""))) for wordnet_id, name in zip(ids, names, strict=True)
    )
    if alike < 900:
        raise ValueError(
            f"imagenet-1k: found {alike} of 1000 names like WordNet's, expected at least 900: the order of the tables "
            "in timm and open_clip differs; install the versions of requirements.lock"
        )
    return dict(zip(ids, names, strict=True))


def wordnet_name(wordnet_id: str) -> str | None:
    """ImageNet-1k's name of the class, else the first of WordNet's own; None for an id that timm's tables lack."""
    lemmas = wordnet_lemmas().get(wordnet_id)
    return imagenet_names().get(wordnet_id) or (lemmas and lemmas.split(",")[0])


@cache
def wordnet_lemmas() -> Mapping[str, str]:
    """WordNet id -> names of the sense, with commas between them: ImageNet-21k's classes and those above them."""
    path = package_folder("timm") / "data" / "_info" / "imagenet_synset_to_lemma.txt"
    return dict(line.split("\t", 1) for line in read_lines(path) if "\t" in line)


def _words(text: str) -> set[str]:
    return set(re.findall("[a-z]{3,}", text.lower()))


def package_folder(package: str) -> Path:
    """Where a package lies, without importing it (open_clip takes seconds)."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"imagenet-1k: {package} is not installed, expected its class tables; install it")
    return Path(next(iter(found.submodule_search_locations)))


def _literal(path: Path, name: str) -> list[str]:
    """The tuple or list of strings assigned to `name` in a source file, read as a literal and never run."""
    for node in ast.parse(read_text(path)).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return [str(item) for item in ast.literal_eval(node.value)]
    raise ValueError(f"{path}: found no {name}, expected it there; install the versions of requirements.lock")
