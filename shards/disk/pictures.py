"""Picture files: which names are pictures, which of Pillow's decoders may open them, and their pixels as 8-bit RGB.

In: a file's name or path, or an opened picture. Out: whether it is a picture, its decoder, or its RGB pixels. No other
decoder is ever used. A file of another picture format counts as a picture that cannot be read. What operating systems
leave beside pictures (`._a.jpg`, `__MACOSX/`) is no picture and no class. On disk: nothing.
"""

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {  # of two pictures of a sample the first
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".jfif": "JPEG", ".jpe": "JPEG"},
    **{".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"},
}
DECODERS = tuple(dict.fromkeys(FORMATS.values()))
_OTHER_KINDS = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".pfm"})
_SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
_PLAIN = frozenset({"1", "L", "P", "RGB", "CMYK"})  # Pillow's modes of 8 bits or fewer, as our decoders give them
_WITH_ALPHA = frozenset({"LA", "PA", "RGBA"})


def is_picture(name: str | os.PathLike[str]) -> bool:
    """Whether the file is a picture of a kind that image folders hold, one we read or not."""
    return picture_format(name) is not None or (_suffix(name) in _OTHER_KINDS and not _is_of_system(name))


def picture_format(name: str | os.PathLike[str]) -> str | None:
    """``"a/b.JPG"`` -> ``"JPEG"``, Pillow's name of the only decoder for it; None for a file that is not read."""
    return None if _is_of_system(name) else FORMATS.get(_suffix(name))


def is_system_folder(name: str) -> bool:
    """Whether a folder holds what an operating system or a file server keeps for itself, such as ``__MACOSX``."""
    return name.lower() in _SYSTEM_FOLDERS


def rgb_pixels(picture: "Image", upright: bool = False) -> np.ndarray:
    """uint8 RGB [H, W, 3] of an opened picture; ``upright``: turned as its EXIF asks, else as it lies in the file.

    16 bits of grey are scaled to 8. Transparent parts show white, as on a page. Of an animation it is the first
    picture. Raises ValueError for pixels whose white is not known (32-bit whole numbers and floating point), and what
    Pillow raises for a damaged file.
    """
    from PIL import Image as pil
    from PIL import ImageOps

    is_deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM")
    picture = ImageOps.exif_transpose(picture) if upright else picture
    mode = picture.mode
    if is_deep:
        deep = np.asarray(picture).astype(np.uint32)
        grey = ((deep * 255 + 32_767) // 65_535).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if mode in _WITH_ALPHA or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        white = pil.new("RGBA", layered.size, (255, 255, 255, 255))
        return np.asarray(pil.alpha_composite(white, layered).convert("RGB"))
    if mode not in _PLAIN:
        raise ValueError(f"found pixels of the kind {mode}, expected 8 or 16 bits; convert the picture to 8-bit RGB")
    return np.asarray(picture.convert("RGB"))


def _is_of_system(name: str | os.PathLike[str]) -> bool:
    return os.path.basename(os.fspath(name)).startswith("._")


def _suffix(name: str | os.PathLike[str]) -> str:
    return os.path.splitext(os.fspath(name))[1].lower()
