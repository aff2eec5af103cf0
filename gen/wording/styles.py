"""Styles: contexts as a painting, a woodcut or another rendition (kind sd), and their mix with plain photos.

In: contexts of a class, the lexicon's styles, the run seed. Out: `Wording`s with distinct texts. On disk: nothing.

Words are used evenly. In every prefix of a class's prompts, each style is used equally often, within one, and so is
each context. Styles are also even over the run at the end of every class, because the run has a ring of styles, in
which each class continues where the class before it stopped. Every prefix of a mix has its share of both kinds within
one.
"""

from collections.abc import Sequence
from typing import Literal

from gen.wording.lexicon import Lexicon
from gen.wording.parts import Wording
from gen.wording.templates import class_rng, draw_evenly, shuffled
from shards.disk.safe_text import quoted
from shards.labels.classes import Class

_PAIRS, _RING = 3_000_000, 3_000_001
_NO_CLASS = -1  # for the ring, which belongs to the run


def add_styles(
    one: Class,
    meaning: str | None,
    contexts: Sequence[Wording],
    count: int,
    first: int,
    seed: int,
    lexicon: Lexicon,
) -> list[Wording]:
    """`count` distinct pairs of a context and a style; `first`: how many styled prompts the earlier classes have.

    The contexts come from `draw_contexts` with the same lexicon. Raises ValueError if there are fewer pairs, or if two
    of them make the same text.
    """
    where = f"styles of class {one.id} ({quoted(one.name, 60)})"
    num_styles = len(lexicon.styles)
    if count > len(contexts) * num_styles:
        raise ValueError(
            f"{where}: found {len(contexts)} contexts and {num_styles} styles, expected at least {count} pairs; ask "
            "for more contexts, or lower the share of styles"
        )
    if not count:
        return []
    pairs = draw_evenly([len(contexts), num_styles], count, class_rng(seed, one.id, _PAIRS))
    style_of = _follow_ring([style for _, style in pairs], first, num_styles, seed)
    styled_form = {form.photo: form.styled for form in (*lexicon.forms, *lexicon.forms_of_plans)}
    styled = [
        Wording(
            styled_form[contexts[context].form], {**contexts[context].words, "style": lexicon.styles[style_of[style]]}
        )
        for context, style in pairs
    ]
    texts: set[str] = set()
    for wording in styled:
        text = wording.text(meaning or one.name)
        if text in texts:
            raise ValueError(
                f"{where}: found {quoted(text, 80)} twice, expected distinct texts; change words or styles"
            )
        texts.add(text)
    return styled


def mix(contexts: Sequence[Wording], styled: Sequence[Wording]) -> list[tuple[Literal["cd", "sd"], Wording]]:
    """Both kinds in one list, each in its order; every prefix has its share of both within one."""
    total = len(contexts) + len(styled)
    mixed: list[tuple[Literal["cd", "sd"], Wording]] = []
    for place in range(total):
        num_styled = (place + 1) * len(styled) // total
        before = place * len(styled) // total
        mixed.append(("sd", styled[before]) if num_styled > before else ("cd", contexts[place - before]))
    return mixed


def _follow_ring(drawn: Sequence[int], first: int, num_styles: int, seed: int) -> dict[int, int]:
    """Drawn style -> style: the styles that are used once more than the others become the next ones of the run's ring.

    `draw_evenly` is even after each multiple of `num_styles`, so these styles, the rest at the end, are distinct.
    """
    ring = shuffled(range(num_styles), class_rng(seed, _NO_CLASS, _RING))
    rest = drawn[len(drawn) - len(drawn) % num_styles :]
    others = [style for style in range(num_styles) if style not in rest]
    return {style: ring[(first + place) % num_styles] for place, style in enumerate([*rest, *others])}
