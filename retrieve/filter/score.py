"""CLIP scores: the cosine of a picture with the text of its own class.

In: a CLIP, what each class is called, templates. Out: a unit row for each class; scores. On disk: nothing.

The row of a class is the mean of the text features of all templates, not normalised before the mean, and normalised
after it, as in Unmet Promise; a zero-shot classifier normalises each text first (`unit_texts`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gen.model.clip import Clip
from shards.disk.safe_text import quoted

TEMPLATES = ("a photo of {name}.",)
SLOT = "{name}"


def class_rows(
    clip: Clip, names: Mapping[int, str], templates: Sequence[str] = TEMPLATES, unit_texts: bool = False
) -> dict[int, NDArray[np.float32]]:
    """Class id -> unit row D. Raises ValueError for templates without `{name}`, or none."""
    if not templates:
        raise ValueError("templates: found none, expected texts such as 'a photo of {name}.'")
    for template in templates:
        if SLOT not in template:
            raise ValueError(f"template: found {quoted(template, 60)}, expected a text with {SLOT} in it")
    texts = [template.replace(SLOT, name) for name in names.values() for template in templates]
    features = clip.embed_texts(texts) if unit_texts else clip.text_features(texts)
    means = features.reshape(len(names), len(templates), -1).astype(np.float64).mean(axis=1)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return dict(zip(names, (means / np.maximum(lengths, 1e-12)).astype(np.float32), strict=True))


def scores_of(
    images: NDArray[np.floating], classes: NDArray[np.int64], rows: Mapping[int, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """N cosines of unit rows N D with the rows of their classes; NaN where the image has a row of zeros (no picture).
    Raises ValueError for a class without a row, and for rows of another width."""
    if missing := sorted(set(np.unique(classes).tolist()) - set(rows)):
        raise ValueError(f"scores: found class {missing[0]}, expected those of the texts; give it a name")
    found = np.empty(len(images), np.float32)
    for one in np.unique(classes):
        mine = np.flatnonzero(classes == one)
        vectors = images[mine].astype(np.float32)
        if vectors.shape[1] != len(rows[int(one)]):
            raise ValueError(
                f"scores: found images of {vectors.shape[1]} numbers and texts of {len(rows[int(one)])}, "
                "expected those of one CLIP"
            )
        found[mine] = np.where(vectors.any(axis=1), np.clip(vectors @ rows[int(one)], -1, 1), np.nan)
    return found
