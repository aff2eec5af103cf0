"""Pixels into JPEG bytes and back, with a note in the file that says where an image comes from.

In: uint8 arrays [height, width, 3] in RGB order. Out: JPEG bytes with an XMP packet (APP1, after SOI and APP0) whose
`Iptc4xmpExt:DigitalSourceType` is the IPTC address of the source type. The same pixels give the same bytes: no date, no
host, no encoder version is written.
"""

import re
from functools import cache
from typing import Literal

import numpy as np
import simplejpeg

SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]
SOURCE_TYPES: tuple[SourceType, ...] = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
SUBSAMPLINGS = ("444", "420")
MAX_PIXELS = 1 << 26  # 8192 x 8192; a larger claim in a header is refused before anything is allocated

_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_ORIENTATION = 0x0112  # the tag of EXIF
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\x00"
_SOURCE = re.compile(rb"Iptc4xmpExt:DigitalSourceType(?:=[\"']|>\s*)" + _VOCABULARY.encode() + rb"([A-Za-z]{1,80})")


def encode_jpeg(
    image: np.ndarray,
    quality: int = 95,
    subsampling: str = "444",
    source_type: SourceType | None = "trainedAlgorithmicMedia",
) -> bytes:
    """JPEG bytes of one uint8 RGB image [H, W, 3]; `source_type=None` leaves the packet out (real photographs).

    Raises ValueError for another shape or type, a quality outside 1..100, an unknown subsampling or source type.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: found {image.dtype} {list(image.shape)}, expected uint8 [height, width, 3]")
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality: found {quality}, expected 1..100")
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(f"JPEG subsampling: found {subsampling!r}, expected one of {', '.join(SUBSAMPLINGS)}")
    if source_type is not None and source_type not in SOURCE_TYPES:
        raise ValueError(f"source type: found {source_type!r}, expected one of {', '.join(SOURCE_TYPES)} or none")
    plain: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling=subsampling
    )
    return plain if source_type is None else with_source_type(plain, source_type)


def with_source_type(data: bytes, source_type: SourceType) -> bytes:
    """The bytes of a JPEG with the packet in them; of one that has such a packet, `data`. The pixels are the same."""
    if read_source_type(data) == source_type:
        return data
    segment = _xmp_segment(source_type)
    after = 2  # behind SOI, and behind the JFIF APP0 that JFIF wants first
    if data[2:4] == b"\xff\xe0":
        after += 2 + int.from_bytes(data[4:6], "big")
    return b"".join((data[:after], segment, memoryview(data)[after:]))


def decode_jpeg(data: bytes) -> np.ndarray:
    """uint8 RGB [H, W, 3]. Raises ValueError on anything damaged (strict decoding) or larger than `MAX_PIXELS`."""
    height, width = jpeg_size(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"JPEG: the header says {width}x{height} pixels, at most {MAX_PIXELS} are decoded")
    image: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    return image


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) in pixels, as the header says. Raises ValueError if `data` is not a whole JPEG file."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        raise ValueError("JPEG: expected bytes from the start mark FFD8 to the end mark FFD9 and nothing else")
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    return int(height), int(width)


def read_source_type(data: bytes) -> str | None:
    """The IPTC digital source type in the XMP packet, such as ``trainedAlgorithmicMedia``; None if there is none."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"", b"\xda", b"\xd9"):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xE1 and data.startswith(_XMP_MARK, at + 4):
            found = _SOURCE.search(data, at + 4, at + 2 + length)
            if found:
                return found.group(1).decode("ascii")
        if length < 2:
            return None
        at += 2 + length
    return None


def may_be_turned(data: bytes | memoryview) -> bool:
    """Whether EXIF or XMP of a JPEG may ask for another orientation than the one in which it lies.

    False only if they say that it is upright, or nothing; what cannot be read is True, and Pillow's to judge.
    """
    at = 2
    while bytes(data[at : at + 1]) == b"\xff" and bytes(data[at + 1 : at + 2]) not in (b"", b"\xda", b"\xd9"):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            return False
        if data[at + 1] == 0xE1:
            segment = bytes(data[at + 4 : at + 2 + length])
            if b"tiff:Orientation" in segment or (segment.startswith(b"Exif\0\0") and _exif_turns(segment[6:])):
                return True
        at += 2 + length
    return False


def _exif_turns(tiff: bytes) -> bool:
    """Whether the first directory of EXIF has an orientation that is not 1, or cannot be read."""
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return True
    order: Literal["little", "big"] = "little" if tiff[:1] == b"I" else "big"
    start = int.from_bytes(tiff[4:8], order)
    count = int.from_bytes(tiff[start : start + 2], order)
    entries = tiff[start + 2 : start + 2 + 12 * count]
    if len(entries) < 12 * count or start < 8:
        return True
    for at in range(0, len(entries), 12):
        if int.from_bytes(entries[at : at + 2], order) == _ORIENTATION:
            return entries[at + 2 : at + 8] + entries[at + 8 : at + 10] != (
                (3).to_bytes(2, order) + (1).to_bytes(4, order) + (1).to_bytes(2, order)
            )
    return False


@cache
def _xmp_segment(source_type: SourceType) -> bytes:
    packet = (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{_VOCABULARY}{source_type}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
    body = _XMP_MARK + packet
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
