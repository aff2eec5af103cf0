"""Picture files, recognised by the ends of their names; pure.

In: a file's name or path. Out: whether it is a picture, and which of Pillow's decoders may open it; no other decoder is
ever used. A file of another picture format counts as a picture that cannot be read. On disk: nothing.
"""

import os

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}  # of two pictures of a sample the first
DECODERS = tuple(dict.fromkeys(FORMATS.values()))
_OTHER_KINDS = frozenset({".ppm", ".bmp", ".pgm", ".tif", ".tiff"})


def is_picture(name: str | os.PathLike[str]) -> bool:
    """Whether the file is a picture of a kind that image folders hold, one we read or not."""
    suffix = _suffix(name)
    return suffix in FORMATS or suffix in _OTHER_KINDS


def picture_format(name: str | os.PathLike[str]) -> str | None:
    """``"a/b.JPG"`` -> ``"JPEG"``, Pillow's name of the only decoder for it; None for a file that is not read."""
    return FORMATS.get(_suffix(name))


def _suffix(name: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(name))[1].lower()
