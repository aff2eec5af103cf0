"""What a person sees in a gallery: what the set is, what is missing, how captions differ, what was rejected and why."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from shards.disk.checked_json import to_checked
from shards.disk.jpeg import encode_jpeg, read_source_type
from shards.disk.layout import RUN, sample_key
from shards.disk.store import FolderStore, open_store
from shards.set.origin import origin_bytes
from shards.set.rejected import rejected_picture
from shards.set.status import SUMMARY
from shards.set.writer import ShardWriter
from shards.views.alike import shared_beginnings
from shards.views.class_pages import REAL_PER_CLASS, RealPictures
from shards.views.gallery import write_gallery
from tests.shards.views.test_gallery import Page, chromium, needs_chromium
from tests.support.small_data_set import FINGERPRINT, picture, sample, write_data_set

WORDS = ("ink", "chalk", "neon")


def store_in(folder: Path) -> FolderStore:
    store = open_store(str(folder))
    assert isinstance(store, FolderStore)
    return store


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.texts).split())


def gallery_of(store: FolderStore, **options: Any) -> Path:
    return write_gallery(store, store.root / "_meta" / "gallery", **options).parent


def short_set(folder: Path) -> FolderStore:
    """Two classes of three samples; of the second, one sample has no image after two tries."""
    store = store_in(folder)
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        for slot in range(5):
            writer.add(sample(0, slot, slot // 3), encode_jpeg(picture(slot // 3, slot)))
        black = np.zeros((32, 32, 3), np.uint8)
        small = rejected_picture("black", black, "trainedAlgorithmicMedia")
        for index, draw in ((6, 0), (5, 1)):  # the last try has the number of its slot
            about = {"status": "black", "draw": draw, "prompt_id": 1, "replicate": 0, "seed": 900 + draw}
            writer.add(sample(0, index, 1, **about), None, small)
        lost = {"status": "flagged", "draw": 0, "prompt_id": 0, "replicate": 0}
        writer.add(sample(0, 7, 0, **lost), None)
        writer.commit(1.0, 1_780_000_000.0, {}, slots=6)
    return store


# what the set is


def test_the_title_says_recipe_scale_day_and_fingerprint(tmp_path: Path) -> None:
    store = short_set(tmp_path / "some-folder")
    store.replace(RUN, origin_bytes(FINGERPRINT, {}, {"identity": {"name": "birds-6x"}}))
    store.replace(SUMMARY, to_checked({"scale": "6x", "asked": {"units": 1}, "exit_code": 0}))
    page = Page(gallery_of(store) / "index.html")
    assert "birds-6x 6x · gallery" in page.texts
    assert f"Finished on 28 May 2026 · fingerprint {FINGERPRINT[:12]} · in some-folder" in text_of(page)


def test_without_a_recipe_the_folder_gives_the_name(tmp_path: Path) -> None:
    page = Page(gallery_of(short_set(tmp_path / "birds")) / "index.html")
    assert "birds · gallery" in page.texts
    assert "fingerprint" not in text_of(page)


@pytest.mark.parametrize("text", ["{", '{"scale": "<b>x", "asked": {"units": 1}}', "[]"])
def test_a_damaged_summary_or_origin_leaves_its_part_of_the_title_out(tmp_path: Path, text: str) -> None:
    store = short_set(tmp_path / "birds")
    for name in (RUN, SUMMARY):
        store.replace(name, text.encode())
    assert "birds · gallery" in Page(gallery_of(store) / "index.html").texts


def test_a_licence_that_nobody_knows_is_called_so(tmp_path: Path) -> None:
    def without(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "licence": None}

    assert "licence: unknown" in Page(gallery_of(write_data_set(tmp_path, change=without)) / "index.html").texts


def test_a_tile_says_how_many_of_the_wanted_images_there_are_and_what_the_name_means(tmp_path: Path) -> None:
    page = Page(gallery_of(short_set(tmp_path)) / "index.html")
    assert "zero 0 zero, the written digit 3 of 3 · 1 rejected" in text_of(page)
    assert "one 1 one, the written digit 2 of 3 · 2 rejected" in text_of(page)


def test_classes_that_are_all_alike_are_said_and_not_drawn(tmp_path: Path) -> None:
    same = Page(gallery_of(write_data_set(tmp_path / "same", num_rejected=0)) / "index.html")
    assert "Each of the 5 classes has 4 images, and no draw was rejected." in text_of(same)
    few = Page(gallery_of(short_set(tmp_path / "few")) / "index.html")
    assert "zero (0) 3 kept, 1 rejected" in text_of(few)
    assert "columns" not in {found.get("class") for tag, found in few.elements if tag == "svg"}


def test_values_that_are_equally_frequent_have_no_bars(tmp_path: Path) -> None:
    def even(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "style": ("ink", "chalk")[index % 2]}

    page = Page(gallery_of(write_data_set(tmp_path, num_shards=1, num_rejected=0, change=even)) / "index.html")
    assert "Style 5 images each chalk ink" in text_of(page) or "Style 5 images each ink chalk" in text_of(page)


# captions


@given(st.lists(st.lists(st.sampled_from(["crane", "the bird", "at", "dawn "]), max_size=6).map(" ".join), max_size=9))
def test_a_shared_beginning_is_shared_and_never_the_whole_caption(captions: list[str]) -> None:
    different = set(captions)
    for caption, length in zip(captions, shared_beginnings(captions), strict=True):
        same = [other for other in different if other.startswith(caption[:length])]
        assert length == 0 or len(same) >= max(2, 0.4 * len(different))
        assert length == 0 or caption[length:].strip()


def test_captions_that_begin_alike_show_where_they_differ() -> None:
    meaning = "crane, the wading bird, "
    captions = [meaning + rest for rest in ("in a marsh", "in a meadow", "by the sea", "by a lake")]
    captions += ["a woodcut of a crane", "something else entirely"]
    rests = [one[length:] for one, length in zip(captions, shared_beginnings(captions), strict=True)]
    assert rests == ["in a marsh", "in a meadow", "by the sea", "by a lake", captions[4], captions[5]]


def test_a_card_marks_the_common_beginning_and_loses_no_word(tmp_path: Path) -> None:
    page = (gallery_of(write_data_set(tmp_path)) / "class-0000.html").read_text(encoding="utf-8")
    assert '<span class="same">a photo of zero, number </span>0</p>' in page


# real pictures


def real(pairs: list[tuple[int, int]]) -> Iterator[tuple[int, np.ndarray]]:
    for class_id, number in pairs:
        yield class_id, picture(class_id, number, 300)


def test_real_pictures_stand_beside_the_made_ones_and_do_not_claim_to_be_synthetic(tmp_path: Path) -> None:
    pairs = [(0, number) for number in range(REAL_PER_CLASS + 4)] + [(1, 0), (77, 0)]
    folder = gallery_of(write_data_set(tmp_path), real=RealPictures("my/photos", real(pairs)))
    page = Page(folder / "class-0000.html")
    shown = [address for address in page.values("img", "src") if "/real/" in address]
    assert len(shown) == REAL_PER_CLASS
    assert "8 of the pictures in my/photos" in text_of(page)
    assert {read_source_type((folder / address).read_bytes()) for address in shown} == {None}
    assert "my/photos" not in text_of(Page(folder / "class-0002.html"))
    assert len(list(folder.glob("__thumbs/real/*"))) == REAL_PER_CLASS + 1


def test_real_pictures_that_cannot_be_read_are_named_and_the_page_is_there(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[int, np.ndarray]]:
        yield 0, picture(0, 0)
        raise ValueError("my/photos: found nothing")

    folder = gallery_of(write_data_set(tmp_path), real=RealPictures("my/photos", broken()))
    assert "Real pictures are not shown: my/photos: found nothing" in text_of(Page(folder / "index.html"))


# size of the pictures


def test_pictures_of_a_small_gallery_are_sharp_enough_for_the_full_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(tmp_path)
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        for slot in range(2):
            row = sample(0, slot, 0, width=600, height=600)
            writer.add(row, encode_jpeg(picture(0, slot, 600)))
        writer.commit(1.0, 2.0, {})
    for most, size in ((2, 512), (1, 256)):
        monkeypatch.setattr("shards.views.gallery.SHARP_IMAGES", most)
        thumbs = [path.read_bytes() for path in gallery_of(store).glob("__thumbs/*/*.jpg")]
        assert {simplejpeg.decode_jpeg_header(data)[:2] for data in thumbs} == {(size, size)}


# rejected draws


def test_tries_stand_in_their_order_with_seed_prompt_and_the_picture_that_was_kept(tmp_path: Path) -> None:
    folder = gallery_of(short_set(tmp_path))
    page = Page(folder / "rejected.html")
    text = text_of(page)
    tried = re.findall(r"try (\d) a photo of one, number \d key (\d+) · seed (\d+)", text)
    assert tried == [("1", sample_key(0, 6), "900"), ("2", sample_key(0, 5), "901")]
    shown = page.values("img", "src")
    assert [Path(address).stem for address in shown] == [sample_key(0, 6), sample_key(0, 5)]
    assert all(simplejpeg.decode_jpeg((folder / address).read_bytes()).max() < 8 for address in shown)
    assert text.count("no picture kept") == 1
    assert "What a safety checker objects to is never kept." in text


# in a browser


def in_browser(folder: Path, page: Path, script: str, width: int = 1400) -> Any:
    """What a JavaScript function returns that is run on the page, after the page's own script.

    The page stands in a frame, because a window of headless Chromium is never as narrow as a phone.
    """
    probe = (
        "<script>addEventListener('load', () => setTimeout(() => parent.postMessage("
        f"JSON.stringify((() => {{ {script} }})()), '*'), 50));</script></body>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    copy, frame = page.with_name("probe.html"), page.with_name("frame.html")
    copy.write_text(text.replace("</body>", probe), encoding="utf-8")
    frame.write_text(
        f'<iframe src="probe.html" width="{width}" height="900"></iframe><pre></pre><script>'
        "addEventListener('message', (event) => document.querySelector('pre').textContent = event.data)</script>"
    )
    dumped = chromium(folder, frame, "--dump-dom", "--window-size=1500,1000", "--virtual-time-budget=3000")
    copy.unlink()
    frame.unlink()
    found = re.search(r"<pre>(.+?)</pre>", dumped, re.S)
    assert found is not None, dumped
    return json.loads(html.unescape(found[1]))


@needs_chromium
def test_a_search_and_a_filter_leave_what_fits(tmp_path: Path) -> None:
    folder = gallery_of(short_set(tmp_path / "set"))
    shown = "return [...document.querySelectorAll('[data-item]')].filter((one) => !one.hidden).length"
    typed = (
        "const box = document.querySelector('.find input'); box.value = 'ONE digit';"
        "box.dispatchEvent(new Event('input', { bubbles: true }));"
    )
    assert in_browser(tmp_path, folder / "index.html", shown) == 2
    told = f"{typed} const told = document.querySelector('output').value; {shown.replace('return', 'return [told,')}]"
    assert in_browser(tmp_path, folder / "index.html", told) == ["1 of 2", 1]
    chosen = (
        "const choice = document.querySelector('.find select'); choice.selectedIndex = 1;"
        "choice.dispatchEvent(new Event('input', { bubbles: true }));"
        f"const option = choice.selectedOptions[0].text; {shown.replace('return', 'return [option,')}]"
    )
    assert in_browser(tmp_path, folder / "index.html", chosen) == ["short of images", 1]
    assert in_browser(tmp_path, folder / "class-0000.html", chosen) == ["chalk", 1]


@needs_chromium
def test_a_picture_opens_in_full_view_and_keys_lead_through_the_page(tmp_path: Path) -> None:
    folder = gallery_of(write_data_set(tmp_path / "set"))
    steps = """
        const links = [...document.querySelectorAll('a.open')], view = document.querySelector('dialog');
        const key = (name) => view.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true }));
        const last = (address) => address?.split('/').pop();
        const now = () => [view.open, last(view.querySelector('img')?.src), view.querySelector('.place').textContent];
        const seen = [now()];
        links[1].click(); seen.push(now());
        key('ArrowRight'); seen.push(now());
        key('ArrowLeft'); key('ArrowLeft'); key('ArrowLeft'); seen.push(now());
        view.close();
        view.dispatchEvent(new Event('close'));  // a browser sends its own a moment later
        seen.push([view.open, last(document.activeElement.href), location.href.includes('#')]);
        return seen;"""
    keys = [path.stem for path in sorted((folder / "__thumbs").glob("*/*.jpg"))]
    mine = [f"{key}.jpg" for key in keys if int(key[5:]) % 5 == 0]
    assert len(mine) == 4
    assert in_browser(tmp_path, folder / "class-0000.html", steps) == [
        [False, None, ""],
        [True, mine[1], "2 of 4"],
        [True, mine[2], "3 of 4"],
        [True, mine[3], "4 of 4"],
        [False, mine[3], False],
    ]


@needs_chromium
@pytest.mark.parametrize("name", ["index.html", "class-0000.html", "rejected.html"])
def test_no_page_is_wider_than_a_phone(tmp_path: Path, name: str) -> None:
    def long(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "class_name": "x" * 300, "caption": f"{'y' * 400} {index}", "licence": "z" * 200}

    folder = gallery_of(write_data_set(tmp_path / "set", change=long))
    assert in_browser(tmp_path, folder / name, "return document.documentElement.scrollWidth", 390) == 390
