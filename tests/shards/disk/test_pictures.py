"""Every kind of picture file has the same pixels on every way in: an import, real images, a foreign tar."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen.prompts.real_images import decode_picture
from shards.disk.pictures import is_picture, is_system_folder, picture_format
from shards.disk.store import open_for_reading
from shards.labels.classes import ClassSpec, load_classes
from shards.labels.folders import class_folder, class_folders_in, match_folders, own_classes
from shards.set.manifest import read_member, read_table, scan_records
from shards.stream.index import load_index
from shards.stream.pixels import UnreadablePicture, decode_with_pillow
from shards.views.image_folder import find_pictures, import_image_folder

Pixels = np.ndarray
SIDE = 16


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def flat(mode: str, value: object, kind: str, **options: object) -> bytes:
    return saved(Image.new(mode, (SIDE, SIDE), value), kind, **options)  # type: ignore[arg-type]


def deep_grey(value: int, kind: str) -> bytes:
    return saved(Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)), kind)


def palette(transparent: bool) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    return saved(image, "PNG", **({"transparency": 1} if transparent else {}))


# name -> (bytes, the colour that everyone should see)
KINDS: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "plain.png": (flat("RGB", (200, 100, 50), "PNG"), (200, 100, 50)),
    "grey.png": (flat("L", 90, "PNG"), (90, 90, 90)),
    "deep.png": (deep_grey(32_768, "PNG"), (127, 127, 127)),
    "deep_white.png": (deep_grey(65_535, "PNG"), (255, 255, 255)),
    "deep.pgm": (b"P5 16 16 65535 " + np.full(256, 32_768, ">u2").tobytes(), (128, 128, 128)),
    "bits.png": (flat("1", 1, "PNG"), (255, 255, 255)),
    "palette.png": (palette(False), (200, 100, 50)),
    "palette_clear.png": (palette(True), (255, 255, 255)),
    "clear.png": (flat("RGBA", (10, 20, 30, 0), "PNG"), (255, 255, 255)),
    "half_clear.png": (flat("RGBA", (0, 0, 0, 128), "PNG"), (127, 127, 127)),
    "grey_clear.png": (flat("LA", (0, 0), "PNG"), (255, 255, 255)),
    "clear.webp": (flat("RGBA", (10, 20, 30, 0), "WEBP", lossless=True), (255, 255, 255)),
    "plain.bmp": (flat("RGB", (200, 100, 50), "BMP"), (200, 100, 50)),
    "plain.gif": (flat("RGB", (255, 0, 0), "GIF"), (255, 0, 0)),
    "moving.gif": (
        flat("RGB", (255, 0, 0), "GIF", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE), (0, 0, 255))]),
        (255, 0, 0),
    ),
    "plain.ppm": (flat("RGB", (200, 100, 50), "PPM"), (200, 100, 50)),
    "plain.jpg": (flat("RGB", (128, 128, 128), "JPEG"), (128, 128, 128)),
    "plain.jfif": (flat("RGB", (128, 128, 128), "JPEG"), (128, 128, 128)),
    "grey.jpg": (flat("L", 90, "JPEG"), (90, 90, 90)),
    "print.jpg": (flat("CMYK", (0, 0, 0, 0), "JPEG"), (255, 255, 255)),
    "wrong_suffix.png": (flat("RGB", (128, 128, 128), "JPEG"), (128, 128, 128)),
}
# name -> bytes that are no picture that can be shown, each of which is told
BROKEN = {
    "empty.jpg": b"",
    "text.png": b"no picture",
    "half.jpg": flat("RGB", (1, 2, 3), "JPEG")[:200],
    "float.png": flat("F", 0.5, "TIFF"),
    "scan.png": flat("RGB", (1, 2, 3), "TIFF"),
}


def by_import(name: str, data: bytes, folder: Path) -> Pixels | None:
    source = folder / "photos" / "crane"
    source.mkdir(parents=True)
    (source / name).write_bytes(data)
    import_image_folder(folder / "photos", str(folder / "set"))
    store = open_for_reading(str(folder / "set"))
    [row] = read_table(store, scan_records(store)).to_pylist()
    if row["status"] != "success":
        assert name in row["error_message"]
        return None
    with Image.open(io.BytesIO(read_member(store, row))) as stored:
        return np.asarray(stored.convert("RGB"))


def by_real_images(name: str, data: bytes, folder: Path) -> Pixels | None:
    found = decode_picture(data)
    return None if isinstance(found, str) else found


def by_stream(name: str, data: bytes, folder: Path) -> Pixels | None:
    """Training and evaluation; a foreign tar holds the file as it is."""
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for member, body in ((name, data), (f"{name.partition('.')[0]}.cls", b"0")):
            told = tarfile.TarInfo(member)
            told.size = len(body)
            tar.addfile(told, io.BytesIO(body))
    try:
        assert len(load_index(str(folder)).label) == 1
        return decode_with_pillow(data)
    except UnreadablePicture:
        return None
    except ValueError:  # of the tar as a whole
        return None


ROUTES: list[Callable[[str, bytes, Path], Pixels | None]] = [by_import, by_real_images, by_stream]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", KINDS)
def test_a_picture_of_any_kind_has_the_same_colour_on_every_way_in(
    name: str, route: Callable[[str, bytes, Path], Pixels | None], tmp_path: Path
) -> None:
    data, colour = KINDS[name]
    pixels = route(name, data, tmp_path)
    assert pixels is not None
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 2, pixels[0, 0]


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
