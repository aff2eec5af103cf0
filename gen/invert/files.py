"""Writes a learned token: the files of `gen.model.style_token`.

In: rows of the new words before and after, the words, what they were learned on. Out: nothing. On disk: the files of
rows, then token.json, each replaced as a whole; where token.json is, the token is whole.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from gen.invert.spec import InvertSpec
from gen.model.style_token import TOKEN, Rows, RowsName, TokenFile, Word, place_of
from shards.disk.replace import replace_file

AllRows = Mapping[str, Rows]  # text encoder -> rows of all words [words, vectors, width]


def write_style_token(
    folder: Path,
    spec: InvertSpec,
    family: str,
    words: Sequence[Word],
    learned: AllRows,
    untrained: AllRows,
    learned_on: Mapping[str, Any],
) -> None:
    """`spec` has its generator's digest written down."""
    assert spec.model_sha256 is not None
    files: dict[str, str] = {}
    both: tuple[tuple[RowsName, AllRows], ...] = (("learned", learned), ("untrained", untrained))
    for name, rows in both:
        for encoder, rows_KVD in rows.items():
            for one, rows_VD in zip(words, rows_KVD, strict=True):
                place = place_of(one.word, len(words), encoder, name)
                data = save({one.word: np.ascontiguousarray(rows_VD, np.float32)})
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                replace_file(folder / place, data)
                files[place] = hashlib.sha256(data).hexdigest()
    told = TokenFile(
        words=tuple(words),
        vectors=spec.vectors,
        widths={encoder: int(rows.shape[-1]) for encoder, rows in learned.items()},
        family=family,
        model=spec.model,
        revision=spec.revision,
        model_digest=spec.model_sha256,
        files=files,
        initial=spec.initial,
        learned_on=dict(learned_on),
    )
    replace_file(folder / TOKEN, (json.dumps(told.model_dump(mode="json"), indent=1) + "\n").encode())
