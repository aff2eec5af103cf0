"""Picture files: which names are pictures, which of Pillow's decoders may open them, and their pixels as 8-bit RGB.

In: a file's name or path, or an opened picture. Out: whether it is a picture, its decoder, or its RGB pixels. No other
decoder is ever used. A file of another picture format counts as a picture that cannot be read. What operating systems
leave beside pictures (`._a.jpg`, `__MACOSX/`) is no picture and no class. On disk: nothing.
"""

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {  # of two pictures of a sample the first
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".jfif": "JPEG", ".jpe": "JPEG"},
    **{".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"},
}
MAX_PICTURE_BYTES = 1 << 28  # of a picture's file
DECODERS = tuple(dict.fromkeys(FORMATS.values()))
_OTHER_KINDS = frozenset({".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".pfm"})
_SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
_PLAIN = frozenset({"1", "L", "P", "RGB", "CMYK"})  # Pillow's modes of 8 bits or fewer, as our decoders give them
_ORIENTATION = 0x0112  # the tag of EXIF
_UPRIGHT = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"},
    **{7: "TRANSVERSE", 8: "ROTATE_90"},
}
_WITH_ALPHA = frozenset({"LA", "PA", "RGBA"})


# of damaged EXIF; `orientation_of` says what becomes of it
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


def is_picture(name: str | os.PathLike[str]) -> bool:
    """Whether the file is a picture of a kind that image folders hold, one we read or not."""
    return picture_format(name) is not None or (_suffix(name) in _OTHER_KINDS and not _is_of_system(name))


def picture_format(name: str | os.PathLike[str]) -> str | None:
    """``"a/b.JPG"`` -> ``"JPEG"``, Pillow's name of the only decoder for it; None for a file that is not read."""
    return None if _is_of_system(name) else FORMATS.get(_suffix(name))


def is_system_folder(name: str) -> bool:
    """Whether a folder holds what an operating system or a file server keeps for itself, such as ``__MACOSX``."""
    return name.lower() in _SYSTEM_FOLDERS


def orientation_of(picture: "Image") -> int:
    """1 to 8, as EXIF or XMP say how the picture lies in the file; 1, upright, where they say nothing readable."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow answers damaged EXIF with errors of many types
        return 1
    return value if value in range(1, 9) else 1


def rgb_pixels(picture: "Image") -> np.ndarray:
    """uint8 RGB [H, W, 3] of an opened picture, upright as its EXIF asks.

    16 bits of grey are scaled to 8. Transparent parts show white, as on a page. Of an animation it is the first
    picture. Raises ValueError for pixels whose white is not known (32-bit whole numbers and floating point), and what
    Pillow raises for a damaged file.
    """
    from PIL import Image as pil

    is_deep = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM")
    orientation = orientation_of(picture)
    if orientation != 1:
        picture = picture.transpose(pil.Transpose[_UPRIGHT[orientation]])
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
