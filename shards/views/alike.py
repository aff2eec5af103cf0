"""Where captions begin alike, so that a page can dim what they share and the difference shows; pure.

In: the captions on a page. Out: for each, how many characters of its beginning many others have too. On disk: nothing.
"""

import re
from collections import Counter
from collections.abc import Sequence

MANY = 0.4  # of the different captions, and two at least
SHORTEST = 8  # characters; dimming less than that helps nobody
MAX_WORDS = 60  # of a caption that are compared

_WORD = re.compile(r"\S+\s*")


def shared_beginnings(captions: Sequence[str]) -> list[int]:
    """The length of each caption's beginning, in whole words, that two in five captions have.

    Never all of a caption: its last word is always its own. Equal captions count once.
    """
    beginnings = {caption: _beginnings(caption) for caption in captions}
    times = Counter(caption[:end] for caption, ends in beginnings.items() for end in ends)
    enough = max(2, MANY * len(beginnings))
    return [
        max((end for end in beginnings[caption] if times[caption[:end]] >= enough), default=0) for caption in captions
    ]


def _beginnings(caption: str) -> list[int]:
    ends = [match.end() for match in _WORD.finditer(caption)]
    return [end for end in ends[:-1][:MAX_WORDS] if end >= SHORTEST]
