"""An image in a question to a language model: what may be sent, its hash, its data URL; pure.

In: bytes of a PNG or a JPEG. Out: a check, the hash that stands for them in the key of the cache, the URL that a server
gets, the picture for a model in this process. On disk: nothing; the bytes are in no cache, no log and no error.
"""

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 8  # of one question
MAX_IMAGE_BYTES = 16 << 20  # of all images of one question
MAX_IMAGE_PIXELS = 1 << 24  # of one image, as its header says: 4096 x 4096
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}  # of Pillow's decoders, those that may open an image
_ECHO = re.compile(r"(?:data:image\\?/[a-z]+;base64,)?[A-Za-z0-9+/\\=]{64,}|data:image\\?/[a-z]+;base64,[^\s\"']*")


def check_images(images: Sequence[bytes], purpose: str) -> None:
    """Raises ValueError for too many or too large images, and for what is no PNG or JPEG; pixels are not decoded."""
    if len(images) > MAX_IMAGES or sum(map(len, images)) > MAX_IMAGE_BYTES:
        raise ValueError(
            f"llm, ask for {purpose}: found {len(images)} images of {sum(map(len, images)):,} bytes, expected at most "
            f"{MAX_IMAGES} of {MAX_IMAGE_BYTES:,} bytes together; make them smaller"
        )
    for data in images:
        width, height = _opened(data, purpose).size
        if width * height > MAX_IMAGE_PIXELS:
            raise ValueError(
                f"llm, ask for {purpose}: found an image of {width} x {height} pixels, expected at most "
                f"{MAX_IMAGE_PIXELS:,} pixels; make it smaller"
            )


def image_digest(data: bytes) -> str:
    """Hex sha256 of the bytes."""
    return hashlib.sha256(data).hexdigest()


def data_url(data: bytes) -> str:
    """The whole image as an address: `data:image/png;base64,...`, of an image that `check_images` let pass."""
    return f"data:{MEDIA_TYPES[_opened(data, '').format or '']};base64,{base64.b64encode(data).decode('ascii')}"


def rgb_image(data: bytes) -> "Image":
    """The decoded picture in RGB, of an image that `check_images` let pass. Raises ValueError if it is damaged."""
    try:
        return _opened(data, "").convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow's words for damaged data
        raise ValueError(
            f"llm: found an image that cannot be decoded ({error}), expected a whole PNG or JPEG"
        ) from None


def without_images(text: str) -> str:
    """A server's words without what looks like the bytes of an image that it repeats."""
    return _ECHO.sub("[image]", text)


def _opened(data: bytes, purpose: str) -> "Image":
    """The image, of which only the header was read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is judged by the caller
            return Image.open(io.BytesIO(data), formats=tuple(MEDIA_TYPES))
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise ValueError(
            f"llm, ask for {purpose}: found {len(data):,} bytes that are no image, expected a PNG or a JPEG"
        ) from None
