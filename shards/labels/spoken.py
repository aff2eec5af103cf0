"""Names as people say them: known forms of lists and folders without what only files need; pure.

In: all names of a list, or of the class folders of one place. Out: the names to say. On disk: nothing.

A form counts only where all names have it:

    apple_pie, pad_thai                Food-101 and the like, no blank in any name, no number first: `_` is a blank
    001.Black_footed_Albatross         CUB, Caltech: a number and a dot stand before the name
    n02085620-Chihuahua                Stanford Dogs: a WordNet id stands before the name
    n01440764 tench, Tinca tinca       LOC_synset_mapping.txt: of several names the first
    1 001.Black_footed_Albatross       classes.txt of CUB: a running number before all that
"""

import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"(?:[0-9]{1,4} )?[0-9]{1,4}\.(?=\D)(\S+)")
_WITH_UNDERSCORES = re.compile(r"[^\W\d_](?:[\w'’.&()-](?<!__))*(?<!_)")  # a word, or words with `_` between them
_BY_WORDNET = re.compile(r"(n[0-9]{8})(?:-|[ \t]+)(\S.*)")


def spoken_names(names: Sequence[str]) -> list[str]:
    """The names to say, in the same order. Where two would become one, all stay as they are."""
    bare = [found[1] for name in names if (found := _NUMBERED.fullmatch(name))]
    bare = bare if len(bare) == len(names) else list(names)
    if all(map(_WITH_UNDERSCORES.fullmatch, bare)):
        bare = [name.replace("_", " ") for name in bare]
    return bare if len(set(bare)) == len(set(names)) else list(names)


def wordnet_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """WordNet id and name to say of each; [] unless all names begin with such an id and say more."""
    found = [_BY_WORDNET.fullmatch(name) for name in names]
    pairs = [(match[1], match[2].split(",")[0].strip()) for match in found if match]
    if len(pairs) < len(names):
        return []
    return list(zip([one for one, _ in pairs], spoken_names([name for _, name in pairs]), strict=True))


def folded_form(folder: str) -> str:
    """What a single folder's name says behind a number or a WordNet id, if it has one of these forms."""
    found = _NUMBERED.fullmatch(folder)
    if found:
        return found[1]
    pair = _BY_WORDNET.fullmatch(folder)
    return pair[2] if pair else folder
