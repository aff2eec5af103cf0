"""What kind of thing a class is, so that its surroundings fit: no violin in a misty marsh.

In: a class, and its meaning if one was chosen. Out: one of KINDS. On disk: reads the table of WordNet's names and
definitions that the installed timm carries; timm is not imported.
"""

from typing import Literal, get_args

Kind = Literal["animal", "vehicle", "food", "plant", "building", "instrument", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
