"""Files whose names say how many they are: `train-00000-of-00003.tar`, as on the hub and in webdataset's sets.

In: the names of one folder. Out: an error where one of them is missing. On disk: nothing.

A download that ended early leaves such a folder, and to read it without a word would change the data set.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from shards.disk.safe_text import visible

_PART = re.compile(r"(.*?)(\d{1,9})[-_]of[-_](\d{1,9})(?!\d)")


def refuse_missing_parts(names: Iterable[str], where: str, begin: str = "") -> None:
    """Check that files that count themselves, from 0 or from 1, are all there.

    A `begin` that reaches into their numbers (`train-0001`) means a part of them, so nothing is missing. Raises
    ValueError that names the first file that is.
    """
    found: defaultdict[tuple[str, int], dict[int, re.Match[str]]] = defaultdict(dict)
    for name in names:
        part = _PART.match(name)
        if part and len(begin) <= len(part[1]):
            found[part[1], int(part[3])][int(part[2])] = part
    for (_, total), parts in found.items():
        first = 0 if 0 in parts else 1
        missing = next((number for number in range(first, first + total) if number not in parts), None)
        if missing is not None:
            one = next(iter(parts.values()))
            lost = f"{one[1]}{missing:0{len(one[2])}d}{one.string[one.end(2) :]}"
            raise ValueError(
                f"{where}: found {len(parts):,} of {total:,} files that {visible(one.string)} is one of, expected all; "
                f"{visible(lost)} is missing; bring what is missing, or rename those that are there if they are meant "
                "to be all"
            )
