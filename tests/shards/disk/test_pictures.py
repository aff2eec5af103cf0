"""Every kind of picture file has the same fate on every way in, whatever it is called and whatever it holds.

The ways in: counting for a class list, real images that choose meanings, an import, a foreign tar in a training, a
foreign tar in an evaluation. Each picture shows two colours, left and right, so that a turned one is seen.
"""

import io
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen.prompts.real_images import decode_picture, read_real
from shards.disk.pictures import is_picture, is_system_folder, picture_format
from shards.disk.safe_text import visible
from shards.disk.store import open_for_reading
from shards.labels.classes import Class, ClassSpec, load_classes
from shards.labels.folders import class_folder, class_folders_in, match_folders, own_classes
from shards.set.manifest import read_member, read_table, scan_records
from shards.set.verify import verify
from shards.stream.augment import AugmentSpec
from shards.stream.index import load_index
from shards.stream.pixels import decode_with_pillow
from shards.stream.read_all import read_all
from shards.stream.spec import DomainSpec, EvalSpec, StreamSpec
from shards.stream.stream import Stream
from shards.views.image_folder import find_pictures, import_image_folder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as shards.disk.pictures has it
Pixels = np.ndarray
SIDE = 16
LEFT, RIGHT = (200, 100, 50), (40, 60, 220)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def flat(mode: str, value: object, kind: str, **options: object) -> bytes:
    return saved(Image.new(mode, (SIDE, SIDE), value), kind, **options)  # type: ignore[arg-type]


def halves() -> Image.Image:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, : SIDE // 2], pixels[:, SIDE // 2 :] = LEFT, RIGHT
    return Image.fromarray(pixels)


def lying(orientation: int, kind: str = "JPEG") -> bytes:
    """The two halves, turned in the file so that the orientation in EXIF puts them right."""
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    turns |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    image = halves() if orientation == 1 else halves().transpose(Image.Transpose[turns[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))


def with_segment(jpeg: bytes, body: bytes) -> bytes:
    """The JPEG with an APP1 segment of its own."""
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def plain_jpeg(**options: object) -> bytes:
    return saved(halves(), "JPEG", quality=100, subsampling=0, **options)


def two_pictures() -> bytes:
    """An MPO, as cameras of depth and telephones write it under .jpg."""
    return saved(
        halves(), "MPO", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))], quality=100, subsampling=0
    )


def moving(kind: str, **options: object) -> bytes:
    return saved(halves(), kind, save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE), (0, 255, 0))], **options)


def deep_grey(value: int, kind: str) -> bytes:
    return saved(Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)), kind)


def palette(transparent: bool) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    return saved(image, "PNG", **({"transparency": 1} if transparent else {}))


def clear_half() -> bytes:
    image = halves().convert("RGBA")
    image.putalpha(Image.fromarray(np.repeat([[255] * 8 + [0] * 8], SIDE, axis=0).astype(np.uint8)))
    return saved(image, "PNG")


def header_only(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none."""
    png = b"\x89PNG\r\n\x1a\n"
    for body in (
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b""),
        b"IEND",
    ):
        png += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png


def grey(value: int) -> tuple[int, int, int]:
    return (value, value, value)


Colour = tuple[int, int, int]
# name -> (bytes, the colours that everyone should see left and right)
KINDS: dict[str, tuple[bytes, Colour, Colour]] = {
    "plain.png": (saved(halves(), "PNG"), LEFT, RIGHT),
    "grey.png": (flat("L", 90, "PNG"), grey(90), grey(90)),
    "deep.png": (deep_grey(32_768, "PNG"), grey(127), grey(127)),
    "deep_white.png": (deep_grey(65_535, "PNG"), grey(255), grey(255)),
    "deep.pgm": (b"P5 16 16 65535 " + np.full(256, 32_768, ">u2").tobytes(), grey(128), grey(128)),
    "bits.png": (flat("1", 1, "PNG"), grey(255), grey(255)),
    "palette.png": (palette(False), LEFT, LEFT),
    "palette_clear.png": (palette(True), grey(255), grey(255)),
    "clear.png": (clear_half(), LEFT, grey(255)),
    "half_clear.png": (flat("RGBA", (0, 0, 0, 128), "PNG"), grey(127), grey(127)),
    "grey_clear.png": (flat("LA", (0, 0), "PNG"), grey(255), grey(255)),
    "clear.webp": (flat("RGBA", (10, 20, 30, 0), "WEBP", lossless=True), grey(255), grey(255)),
    "plain.webp": (saved(halves(), "WEBP", lossless=True), LEFT, RIGHT),
    "moving.webp": (moving("WEBP", lossless=True), LEFT, RIGHT),
    "plain.bmp": (saved(halves(), "BMP"), LEFT, RIGHT),
    "plain.gif": (flat("RGB", (255, 0, 0), "GIF"), (255, 0, 0), (255, 0, 0)),
    "moving.gif": (moving("GIF"), LEFT, RIGHT),
    "plain.ppm": (saved(halves(), "PPM"), LEFT, RIGHT),
    "plain.jpg": (plain_jpeg(), LEFT, RIGHT),
    "progressive.jpg": (plain_jpeg(progressive=True), LEFT, RIGHT),
    "plain.jfif": (plain_jpeg(), LEFT, RIGHT),
    "LOUD.JPEG": (plain_jpeg(), LEFT, RIGHT),
    "grey.jpg": (flat("L", 90, "JPEG"), grey(90), grey(90)),
    "print.jpg": (flat("CMYK", (0, 0, 0, 0), "JPEG"), grey(255), grey(255)),
    "profile.jpg": (plain_jpeg(icc_profile=b"no profile at all" * 20), LEFT, RIGHT),
    "two.jpg": (two_pictures(), LEFT, RIGHT),
    "behind.jpg": (plain_jpeg() + b"PK\x03\x04 more bytes", LEFT, RIGHT),
    "bad_exif.jpg": (with_segment(plain_jpeg(), b"Exif\0\0MM\0*\xff\xff\xff\xff nothing"), LEFT, RIGHT),
    "short_exif.jpg": (with_segment(plain_jpeg(), b"Exif\0\0"), LEFT, RIGHT),
    **{f"lying{turn}.jpg": (lying(turn), LEFT, RIGHT) for turn in range(1, 9)},
    "lying6.png": (lying(6, "PNG"), LEFT, RIGHT),
    "lying_xmp.jpg": (
        with_segment(
            saved(halves().transpose(Image.Transpose.ROTATE_180), "JPEG", quality=100, subsampling=0),
            b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="3"/>',
        ),
        LEFT,
        RIGHT,
    ),
    "wrong_suffix.png": (plain_jpeg(), LEFT, RIGHT),
    "with blank & äöü '\"$(id).jpg": (plain_jpeg(), LEFT, RIGHT),
    "-rf.jpg": (plain_jpeg(), LEFT, RIGHT),
    "line\nbreak \u202egpj.jpg": (plain_jpeg(), LEFT, RIGHT),
    f"{'n' * 200}.jpg": (plain_jpeg(), LEFT, RIGHT),
}
# name -> bytes that are no picture that can be shown, each of which is told
BROKEN = {
    "empty.jpg": b"",
    "text.png": b"no picture",
    "half.jpg": plain_jpeg()[:-200],
    "half.png": saved(halves(), "PNG")[:-40],
    "float.png": flat("F", 0.5, "TIFF"),
    "scan.png": saved(halves(), "TIFF"),
    "icon.png": saved(halves(), "ICO"),
    "page.jpg": b"<!DOCTYPE html><html>Sign in</html>",
    "drawing.jpg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "bomb.png": header_only(60_000, 60_000),
    "huge.ppm": b"P6 50000 50000 255\n",
}


def by_class_list(name: str, data: bytes, folder: Path) -> Pixels | None:
    """Nothing is decoded here: whatever has the name of a picture is counted."""
    put(name, data, folder / "photos" / "crane")
    [one] = load_classes(ClassSpec(source=str(folder / "photos")))
    assert one.count == 1
    found = decode_picture(data)
    return None if isinstance(found, str) else found


def by_import(name: str, data: bytes, folder: Path) -> Pixels | None:
    put(name, data, folder / "photos" / "crane")
    done = import_image_folder(folder / "photos", str(folder / "set"))
    store = open_for_reading(str(folder / "set"))
    [row] = read_table(store, scan_records(store)).to_pylist()
    if row["status"] != "success":
        assert (done.num_samples, done.num_failed) == (0, 1)
        assert name in row["error_message"]
        return None
    assert (done.num_samples, done.num_failed) == (1, 0)
    assert not verify(store).damages
    with Image.open(io.BytesIO(read_member(store, row))) as stored:
        assert stored.getexif().get(0x0112, 1) == 1, "what we store lies upright for every reader"
        return np.asarray(stored.convert("RGB"))


def by_real_images(name: str, data: bytes, folder: Path) -> Pixels | None:
    put(name, data, folder / "crane")
    put("other.png", KINDS["plain.png"][0], folder / "crane")
    found = list(read_real(str(folder), [Class(id=0, name="crane", wordnet_id=None, count=1)], 2, seed=1))
    [one] = [one for one in found if one.name != "crane/other.png"]
    assert one.name == visible(f"crane/{name}")
    is_large = name in ("bomb.png", "huge.ppm")
    assert one.reason == (None if name in KINDS else "too_large" if is_large else "failed_to_decode")
    return one.pixels


def foreign_tar(name: str, data: bytes, folder: Path) -> EvalSpec:
    stem, suffix = os.path.splitext(name)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for member, body in ((f"{stem.replace('.', '_')}{suffix}", data), (f"{stem.replace('.', '_')}.cls", b"0")):
            told = tarfile.TarInfo(member)
            told.size = len(body)
            tar.addfile(told, io.BytesIO(body))
    return EvalSpec(source=str(folder), size_px=SIDE, crop_pct=1.0, threads=0)


def refused(error: ValueError, words: str) -> None:
    """Raises the error again if it is not the one that names the picture."""
    if words not in str(error) and not re.search(r"found '.*' of 0 bytes, expected 1", str(error)):
        raise error


def by_training(name: str, data: bytes, folder: Path) -> Pixels | None:
    source = foreign_tar(name, data, folder).source
    whole = AugmentSpec(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    domain = DomainSpec(name="real", source=source, quota=1)
    spec = StreamSpec(domains=(domain,), size_px=SIDE, threads=0, augment=whole)
    try:
        with Stream(spec, groups=1, seed=1, epoch_steps=1) as stream:
            return next(stream).images[0].copy()
    except ValueError as error:
        return refused(error, "no readable sample")


def by_evaluation(name: str, data: bytes, folder: Path) -> Pixels | None:
    spec = foreign_tar(name, data, folder)
    try:
        [batch] = read_all(spec, load_index(spec.source), 1)
    except ValueError as error:
        return refused(error, "every sample of a test set is needed")
    return batch.images[0].copy()


def put(name: str, data: bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


ROUTES: list[Callable[[str, bytes, Path], Pixels | None]] = [
    by_class_list,
    by_real_images,
    by_import,
    by_training,
    by_evaluation,
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", KINDS)
def test_a_picture_of_any_kind_has_the_same_colour_on_every_way_in(
    name: str, route: Callable[[str, bytes, Path], Pixels | None], tmp_path: Path
) -> None:
    data, left, right = KINDS[name]
    pixels = route(name, data, tmp_path)
    assert pixels is not None
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[:, :6].astype(int) - left).max() <= 4, pixels[0, 0]
    assert np.abs(pixels[:, 10:].astype(int) - right).max() <= 4, pixels[0, -1]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_shown_is_refused_on_every_way_in(
    name: str, route: Callable[[str, bytes, Path], Pixels | None], tmp_path: Path
) -> None:
    assert route(name, BROKEN[name], tmp_path) is None


def test_every_grey_of_16_bits_becomes_the_nearest_of_8() -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    pixels = decode_with_pillow(saved(Image.fromarray(values), "PNG"))
    assert np.array_equal(pixels[:, :, 0], np.round(values / 257 - 1e-9).astype(np.uint8))
    assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_what_an_operating_system_leaves_is_no_class_and_no_picture(tmp_path: Path) -> None:
    for name in ("crane/a.png", "crane/._a.png", "zebra/b.bmp", "__MACOSX/crane/._a.png", "@eaDir/a.png", ".git/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(KINDS["plain.png"][0])
    assert class_folders_in(tmp_path) == ["crane", "zebra"]
    classes = load_classes(ClassSpec(source=str(tmp_path)))
    assert [(one.id, one.name, one.count) for one in classes] == [(0, "crane", 1), (1, "zebra", 1)]
    pictures, left_out = find_pictures(tmp_path)
    assert sorted(one.name for one in pictures) == ["crane/a.png", "zebra/b.bmp"]
    assert left_out == ["@eaDir/", "__MACOSX/", "crane/._a.png"]
    imported = import_image_folder(tmp_path, str(tmp_path.parent / "set"))
    assert imported.left_out() == "1 @eaDir/, 1 __MACOSX/, 1 ._*.png"
    assert is_system_folder("__MACOSX")
    assert not is_system_folder("macosx")


def test_a_picture_that_is_not_read_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "crane").mkdir()
    for name in ("a.png", "b.tif", "c.heic"):
        (tmp_path / "crane" / name).write_bytes(KINDS["plain.png"][0])
    [one] = load_classes(ClassSpec(source=str(tmp_path)))
    assert one.count == 1
    assert is_picture("b.tif")
    assert picture_format("b.tif") is None


def test_folders_of_large_ids_sort_by_id_and_are_found_again() -> None:
    ids = [3, 77, 9_999, 10_000, 123_456]
    folders = [class_folder(one, "crane", digits=6) for one in ids]
    assert folders == sorted(folders)
    assert [one.id for one in own_classes(folders, "here").values()] == ids

    class Listed:
        def __init__(self, class_id: int) -> None:
            self.id, self.name, self.wordnet_id = class_id, "crane", None

    assert [one.id for one in match_folders(folders, [Listed(one) for one in ids], "here").values()] == ids
