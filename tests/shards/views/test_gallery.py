"""What the gallery promises: every page opens from disk, shows what the tables say, and treats every text as text."""

import base64
import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from shards.disk.home import home
from shards.disk.jpeg import encode_jpeg, read_source_type
from shards.disk.layout import sample_key
from shards.disk.safe_text import visible
from shards.disk.store import open_store
from shards.set.manifest import read_table
from shards.set.subset import subset_of
from shards.set.writer import ShardWriter
from shards.views.edit_view import Edit, Edits
from shards.views.gallery import write_gallery
from shards.views.page import SCRIPT, STYLE
from tests.support.hostile_text import BENIGN, PAYLOADS
from tests.support.small_data_set import CLASS_NAMES, FINGERPRINT, picture, sample, write_data_set
from tests.support.traced import peak_bytes

TEXT_FIELDS = (
    *("caption", "meaning", "context", "style", "negative", "prompt_kind", "class_name"),
    *("model", "revision", "licence", "sampler", "url", "error_message"),
)
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not in PATH")


class Page(HTMLParser):
    """The elements and texts of a page, as a browser's tokenizer sees them."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def shape(self) -> list[tuple[str, list[str]]]:
        return [(tag, sorted(attributes)) for tag, attributes in self.elements]

    def classes(self, name: str) -> int:
        """How many elements are of this class."""
        return sum(name in str(found.get("class", "")).split() for _, found in self.elements)

    def values(self, tag: str, attribute: str) -> list[str]:
        return [str(found[attribute]) for name, found in self.elements if name == tag and attribute in found]


def pages_of(index: Path) -> dict[str, Page]:
    return {path.name: Page(path) for path in sorted(index.parent.glob("*.html"))}


def write_texts(folder: Path, texts: tuple[str, ...]) -> Path:
    """One class, one kept sample and one rejected draw for each text, which stands in every field that holds text."""
    store = open_store(str(folder))
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        for index, text in enumerate(texts):
            row = sample(0, index, index, **dict.fromkeys(TEXT_FIELDS, text))
            writer.add(row, encode_jpeg(picture(index, index)))
        for index, text in enumerate(texts):
            failed = sample(0, len(texts) + index, index, **dict.fromkeys(TEXT_FIELDS, text))
            writer.add({**failed, "status": "flagged"}, None)
        writer.commit(1.0, 2.0, {})
    edits = Edits(texts[0], "", lambda row: edit_that_says(row["caption"]))
    return write_gallery(store, folder / "_meta" / "gallery", edits=edits)


def edit_that_says(text: str) -> Edit:
    return Edit("0" * 64, lambda: text, lambda: np.ones((8, 8), bool), text, text, (text,), ((text, text),), (text,))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("<b onclick=1>&'\"") / "<i>run<i>", PAYLOADS)


def test_j3_no_text_in_any_field_makes_a_new_element_or_attribute(hostile: Path, tmp_path: Path) -> None:
    benign = pages_of(write_texts(tmp_path / "plain name", BENIGN))
    pages = pages_of(hostile)
    assert list(pages) == list(benign)
    for name, page in pages.items():
        assert page.shape() == benign[name].shape(), name


def test_j3_hostile_texts_are_shown_as_themselves(hostile: Path) -> None:
    for class_id, payload in enumerate(PAYLOADS):
        page = Page(hostile.parent / f"class-{class_id:04d}.html")
        seen = visible(payload if len(payload) <= 1_200 else payload[:1_200])
        assert any(text.startswith(seen) for text in page.texts), payload[:40]


def test_j3_every_address_on_a_page_is_one_of_the_gallerys_own_files(hostile: Path) -> None:
    for name, page in pages_of(hostile).items():
        for tag, attributes in page.elements:
            assert not any(attribute.startswith("on") or attribute == "style" for attribute in attributes), name
            for attribute in ("href", "src", "action", "srcdoc", "data", "xlink:href", "formaction"):
                address = attributes.get(attribute)
                if address is not None:
                    assert re.fullmatch(r"#[a-z]+|(__)?[a-z0-9/-]+\.(html|css|jpg)", address), (name, tag, address)
        tags = [tag for tag, _ in page.elements]
        assert not {"iframe", "object", "embed", "form", "base", "style"} & set(tags)
        assert tags.count("script") == 1


def test_k2_control_and_bidi_characters_reach_no_page(hostile: Path) -> None:
    for path in hostile.parent.glob("*.html"):
        text = path.read_text(encoding="utf-8").replace("\n", "")
        assert visible(text) == text, path.name
        assert "⟨U+202E⟩" in text or path.name != "class-0086.html"


def test_every_page_forbids_foreign_content_and_every_script_but_ours(hostile: Path) -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    ours = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    for page in pages_of(hostile).values():
        policy = page.values("meta", "content")[0]
        allowed = f"img-src 'self' data:; style-src 'self'; script-src 'sha256-{ours}'"
        assert policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
        assert "unsafe" not in policy
        assert ("script", {}) in page.elements
        assert script in page.texts
        assert ("meta", {"name": "referrer", "content": "no-referrer"}) in page.elements


@needs_chromium
def test_j3_a_browser_runs_nothing_of_a_hostile_data_set(hostile: Path, tmp_path: Path) -> None:
    for name in ("index.html", "class-0000.html", "rejected.html"):
        rendered = tmp_path / name
        rendered.write_text(chromium(tmp_path, hostile.parent / name, "--dump-dom"), encoding="utf-8")
        before, after = Page(hostile.parent / name), Page(rendered)
        assert after.shape() == before.shape()
        assert title(after) == title(before)


@needs_chromium
def test_the_style_applies_when_a_page_is_opened_from_disk_in_light_and_in_dark(tmp_path: Path) -> None:
    index = write_gallery(write_data_set(tmp_path / "set"), tmp_path / "gallery")
    css = (index.parent / "gallery.css").read_text(encoding="utf-8")
    papers = re.findall(r"--paper: #([0-9a-f]{6})", css)
    for paper, scheme in zip(papers, ("1", "0"), strict=True):
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,700")
        chromium(tmp_path, index, *flags)
        assert pixel(shot, 3, 690) == tuple(bytes.fromhex(paper))


def test_the_pages_show_every_kept_sample_once_and_no_rejected_one(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_shards=3, num_slots=25, num_rejected=4)
    index = write_gallery(store, tmp_path / "gallery", images_per_page=4)
    rows = read_table(store, range(3), ["key", "status"]).to_pylist()
    shown = [
        Path(address).stem for path in index.parent.glob("class-*.html") for address in Page(path).values("img", "src")
    ]
    assert sorted(shown) == sorted(row["key"] for row in rows if row["status"] == "success")
    thumbs = {path.stem for path in index.parent.glob("__thumbs/*/*.jpg")}
    assert thumbs == set(shown)


def test_j9_rejected_draws_are_listed_with_their_reason_and_without_a_picture(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_slots=5, num_rejected=130)
    index = write_gallery(store, tmp_path / "gallery")
    pages = [Page(index.parent / name) for name in ("rejected.html", "rejected-2.html")]
    text = " ".join(text for page in pages for text in page.texts)
    for row in read_table(store, range(2), ["key", "status"]).to_pylist():
        assert (row["key"] in text) == (row["status"] != "success")
    assert text.count("one flat colour") == 260
    assert not [tag for page in pages for tag, _ in page.elements if tag == "img"]


def test_every_link_and_every_picture_leads_to_a_file(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_shards=4, num_slots=30, num_rejected=3)
    pages = pages_of(write_gallery(store, tmp_path / "gallery", images_per_page=2))
    for name, page in pages.items():
        for address in [*page.values("a", "href"), *page.values("img", "src"), *page.values("link", "href")]:
            file, _, anchor = address.partition("#")
            assert not file or (tmp_path / "gallery" / file).is_file(), (name, address)
            assert not anchor or any(found.get("id") == anchor for _, found in page.elements), (name, address)
    reached, front = set(), {"index.html"}
    while front:
        reached |= front
        linked = {address for name in front for address in pages[name].values("a", "href") if address.endswith(".html")}
        front = linked - reached
    assert reached == set(pages)


def test_a_class_page_says_what_was_asked_for_and_what_came_of_it(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_slots=10, num_rejected=5)
    index = write_gallery(store, tmp_path / "gallery")
    text = " ".join(" ".join(Page(index.parent / "class-0002.html").texts).split())
    for expected in ("two", "class 2", "two, the written digit", "4 images", "2 × blank", "a photo of two, number 7"):
        assert expected in text, expected
    facts = (
        "sandbox/generator",
        "0123456789abcdef",
        "apache-2.0",
        '{"steps":12}',
        "1000010",
        "similarity 0.207",
        "32 × 32 px",
    )
    for expected in facts:
        assert expected in text, expected


def test_k1_secrets_in_an_address_reach_no_page(tmp_path: Path) -> None:
    address = "https://user:hunter2@example.com/a.jpg?X-Amz-Signature=hunter2"

    def change(shard: int, index: int, row: dict[str, object]) -> dict[str, object]:
        return {**row, "url": address, "error_message": row.get("error_message") and f"403 from {address}"}

    index = write_gallery(write_data_set(tmp_path / "set", change=change), tmp_path / "gallery")
    text = "".join(path.read_text(encoding="utf-8") for path in index.parent.glob("*.html"))
    assert text.count("https://example.com/a.jpg") == 24
    assert "hunter2" not in text


def test_two_classes_with_one_name_have_two_pages(tmp_path: Path) -> None:
    index = write_gallery(write_data_set(tmp_path / "set"), tmp_path / "gallery")
    assert [Page(index.parent / f"class-000{i}.html").texts.count("crane") > 0 for i in (3, 4)] == [True, True]
    assert len(list(index.parent.glob("class-*.html"))) == len(CLASS_NAMES)


def test_j6_a_damaged_picture_leaves_a_placeholder_and_the_page_renders(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    row = read_table(store, [0], ["key", "jpg_offset", "jpg_size"]).to_pylist()[3]
    with (tmp_path / "set" / "00000.tar").open("r+b") as file:
        file.seek(row["jpg_offset"] + row["jpg_size"] // 2)
        file.write(b"\0\0\0\0")
    index = write_gallery(store, tmp_path / "gallery")
    page = Page(index.parent / "class-0003.html")
    [broken] = [found for tag, found in page.elements if tag == "div" and found.get("class") == "broken"]
    assert "crane" in str(broken["aria-label"])
    assert "other bytes" in " ".join(page.texts)
    assert len(page.values("img", "src")) == 3


def test_j6_a_picture_that_is_no_jpeg_inside_leaves_a_placeholder(tmp_path: Path) -> None:
    good = encode_jpeg(picture(0, 0))
    half = good[: len(good) * 9 // 10] + b"\xff\xd9"
    store = open_store(str(tmp_path / "set"))
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        writer.add(sample(0, 0, 0), good)
        writer.add(sample(0, 1, 0), half)
        writer.commit(1.0, 2.0, {})
    page = Page(write_gallery(store, tmp_path / "gallery").parent / "class-0000.html")
    assert len(page.values("img", "src")) == 1
    assert "cannot be decoded" in " ".join(page.texts)


@pytest.mark.parametrize("file", ["00000.tar", "00000.parquet", "00000_stats.json"])
def test_a_damaged_shard_is_named_on_the_first_page_and_the_rest_is_shown(tmp_path: Path, file: str) -> None:
    store = write_data_set(tmp_path / "set")
    data = (tmp_path / "set" / file).read_bytes()
    cut = bytes([data[0] ^ 1]) + data[1:] if file.endswith("parquet") else data[:-2]
    (tmp_path / "set" / file).write_bytes(cut)
    page = Page(write_gallery(store, tmp_path / "gallery"))
    text = " ".join(page.texts)
    assert "1 damaged shard is left out" in text
    assert file in text
    assert {Path(address).parent.name for address in page.values("img", "src")} == {"00001"}


def test_thumbnails_are_small_encoded_anew_and_keep_the_note_that_they_are_synthetic_k6(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "set"))
    with ShardWriter(store, 0, "try", FINGERPRINT) as writer:
        writer.add(sample(0, 0, 0, width=600, height=600), encode_jpeg(picture(0, 0, 600)))
        real = sample(0, 1, 0, domain="real", width=600, height=600)
        writer.add(real, encode_jpeg(picture(0, 1, 600), source_type=None))
        writer.commit(1.0, 2.0, {})
    index = write_gallery(store, tmp_path / "gallery", thumb_px=100)
    thumbs = [path.read_bytes() for path in sorted(index.parent.glob("__thumbs/*/*.jpg"))]
    assert [simplejpeg.decode_jpeg_header(data)[:2] for data in thumbs] == [(100, 100), (100, 100)]
    assert [read_source_type(data) for data in thumbs] == ["trainedAlgorithmicMedia", None]
    text = " ".join(Page(index).texts)
    assert "Synthetic pictures" in text
    assert "Real pictures" in text


def test_a_subset_shows_its_samples_only(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_shards=3)
    table = read_table(store, [0, 2], ["uid", "key", "shard", "status"]).slice(4, 9)
    wanted = table.filter([status == "success" for status in table["status"].to_pylist()])
    index = write_gallery(store, tmp_path / "gallery", subset=subset_of(wanted), subset_name="best <9>")
    shown = {path.stem for path in index.parent.glob("__thumbs/*/*.jpg")}
    assert shown == set(wanted["key"].to_pylist())
    assert "best <9>" in Page(index).texts
    assert not (index.parent / "rejected.html").exists()


def test_a_folder_without_shards_has_no_gallery(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no shards, expected a data set; .* `sixfold generate`"):
        write_gallery(open_store(str(tmp_path / "set")), tmp_path / "gallery")
    assert not (tmp_path / "gallery").exists()


def test_a_subset_of_nothing_has_a_page_that_says_so(tmp_path: Path) -> None:
    page = Page(write_gallery(write_data_set(tmp_path / "set"), tmp_path / "gallery", subset={}))
    assert "There is nothing to show" in " ".join(page.texts)


def test_the_gallery_is_replaced_as_a_whole_and_is_the_same_for_the_same_data(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    index = write_gallery(store, tmp_path / "gallery")
    first = tree(index.parent)
    (index.parent / "left over.html").write_text("old")
    assert tree(write_gallery(store, tmp_path / "gallery").parent) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery", "set"]


def test_a_folder_that_is_not_a_gallery_is_never_replaced(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="choose another"):
        write_gallery(store, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_relative_folder_is_fine_and_the_folder_one_stands_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_data_set(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert write_gallery(store, Path("gallery")) == Path("gallery/index.html")
    with pytest.raises(ValueError, match="choose another"):
        write_gallery(store, Path())


def test_pages_can_be_used_without_seeing_them(tmp_path: Path) -> None:
    store = write_data_set(tmp_path / "set", num_slots=30, num_rejected=2)
    for name, page in pages_of(write_gallery(store, tmp_path / "gallery", images_per_page=3)).items():
        tags = [tag for tag, _ in page.elements]
        assert tags.count("h1") == (0 if name.startswith("index-") else 1), name
        assert page.values("html", "lang") == ["en"]
        assert all("alt" in found for tag, found in page.elements if tag == "img"), name
        levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
        assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels)), name
        for tag, found in page.elements:
            assert tag != "svg" or "aria-label" in found or found.get("aria-hidden") == "true"
            assert tag != "nav" or "aria-label" in found
        ids = [str(found["id"]) for _, found in page.elements if "id" in found]
        assert len(ids) == len(set(ids)), name


def test_every_text_colour_stands_out_from_every_ground_in_light_and_dark() -> None:
    css = STYLE.read_text(encoding="utf-8")
    for scheme in css.split("prefers-color-scheme: dark")[0:2]:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", scheme)[:16])
        for ground in ("paper", "card", "well"):
            for ink in ("ink", "quiet", "accent", "lost"):
                if (ink, ground) == ("accent", "well"):
                    continue  # no link stands on a chip
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def test_j7_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for num_shards in (3, 12):
        store = write_data_set(tmp_path / f"set{num_shards}", num_shards=num_shards, num_slots=60, num_rejected=10)
        write_gallery(store, tmp_path / "warm", images_per_class=9)  # imports and template caches
        peaks.append(peak_bytes(lambda turn, store=store: write_gallery(store, tmp_path / f"{store.root.name}-{turn}")))
    assert peaks[1] < 1.5 * peaks[0], peaks


@pytest.mark.torture
def test_j7_a_million_rows_make_a_gallery_within_a_gigabyte(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "set"))
    jpeg = encode_jpeg(picture(0, 0))
    for shard in range(100):
        with ShardWriter(store, shard, "try", FINGERPRINT) as writer:
            for index in range(10_000):
                uid = hashlib.sha256(f"{shard}/{index}".encode()).hexdigest()[:32]
                row: dict[str, Any] = sample(shard, index, index % 1_000, key=sample_key(shard, index), uid=uid)
                if index % 10 == 9:
                    writer.add({**row, "status": "blank"}, None)
                else:
                    writer.add(row, jpeg)
            writer.commit(1.0, 2.0, {})
    program = (
        "import resource, sys; from pathlib import Path; from shards.disk.store import open_store;"
        "from shards.views.gallery import write_gallery;"
        "write_gallery(open_store(sys.argv[1]), Path(sys.argv[2]), images_per_class=60);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "set"), str(tmp_path / "gallery")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1_800, check=True, cwd=home())
    assert int(done.stdout) < 1_000_000, f"{int(done.stdout)} KB"
    assert "900,000 images of 1,000 classes" in (tmp_path / "gallery" / "index.html").read_text(encoding="utf-8")


def chromium(folder: Path, page: Path, *flags: str) -> str:
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def title(page: Page) -> str:
    """Everything before the first text of the body."""
    return "".join(page.texts).partition("Skip to the pictures")[0].strip()


def pixel(shot: Path, x: int, y: int) -> tuple[int, ...]:
    from PIL import Image

    with Image.open(shot) as image:
        found = image.convert("RGB").getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [value / 255 for value in bytes.fromhex(colour[1:])]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
