"""The page of a style inversion: the same noise drawn with three prompts, beside real pictures.

In: rows of pictures with their texts, figures. Out and on disk: one HTML file with its pictures and style inside, no
script.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.disk.jpeg import encode_jpeg
from shards.disk.replace import replace_file
from shards.views.page import NOTICES, one_file_page, page_environment

PAGE = "inversion.html"
PAGES = Path(__file__).parent / "pages"


@dataclass(frozen=True, eq=False)
class Row:
    """Pictures of one kind."""

    title: str
    about: str
    texts: tuple[str, ...]  # what each was told to show
    images_NHWC: NDArray[np.uint8]
    is_real: bool = False

    @property
    def shown(self) -> list[tuple[str, str]]:
        """(text, address that holds the picture)."""
        source = None if self.is_real else "trainedAlgorithmicMedia"
        return [
            (text, f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(image, source_type=source)).decode()}")  # type: ignore[arg-type]
            for text, image in zip(self.texts, self.images_NHWC, strict=True)
        ]


def write_page(path: Path, words: Sequence[str], rows: Sequence[Row], figures: Mapping[str, str]) -> None:
    """Write the page; an older one is replaced in one step."""
    values = {"words": list(words), "rows": rows, "figures": dict(figures), "notice": NOTICES["synthetic"]}
    text = one_file_page(page_environment(PAGES), "inversion.html", PAGES / "inversion.css", values)
    replace_file(path, text.encode())
