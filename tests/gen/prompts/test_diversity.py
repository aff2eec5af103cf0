"""The diversity report: what is counted, what is compared, and a page that treats every text as text."""

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cluster.recipes.load import load_recipe
from gen.prompts.diversity import Diversity, measure_diversity, report_lines, share
from gen.prompts.diversity_page import bars, doubtful_classes, figures, least_varied, write_page
from gen.prompts.prompts import Sources, draw_table
from gen.prompts.table import BASE_SCHEMA, PromptTable
from gen.run.recipe import Recipe
from gen.wording.flagged_words import flag_groups, flagged_words, group_of
from gen.wording.lexicon import load_lexicon
from shards.disk.home import home
from shards.disk.safe_text import visible
from shards.labels.classes import load_classes
from tests.support.hostile_text import BENIGN, PAYLOADS

CHROMIUM = shutil.which("chromium")
# hostile texts that a table may hold, each with a harmless one; one with a NUL, or so long that twice of it is too much
# for a column, is refused before anything is shown
LOADED = [
    (hostile, plain)
    for hostile, plain in zip(PAYLOADS, BENIGN, strict=True)
    if "\0" not in hostile and len(hostile.encode(errors="replace")) < 4_000
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not in PATH")
SCHEMA = pa.schema([*BASE_SCHEMA, pa.field("style", pa.string())])


def table(folder: Path, classes: Sequence[tuple[str, Sequence[str]]], **columns: object) -> PromptTable:
    """Class i is called as the i-th pair says and has its texts; `columns` gives a value for all rows of a column."""
    rows = [
        {
            **{
                "class_id": class_id,
                "prompt_id": prompt_id,
                "class_name": name,
                "kind": "cd",
                "form": "",
                "text": text,
            },
            **{"form": "", "negative": "", **columns},
        }
        for class_id, (name, texts) in enumerate(classes)
        for prompt_id, text in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "p.parquet")
    return PromptTable.load(folder / "p.parquet")


def sandbox_prompts(folder: Path) -> PromptTable:
    """The table that `recipes/sandbox.yaml` draws, with the first sense of each name."""
    recipe = load_recipe(home() / "recipes" / "sandbox.yaml", Recipe, ())
    classes = load_classes(recipe.classes)
    lexicon = load_lexicon("sandbox")
    phrases = {one.id: f"{one.name}, the handwritten numeral" for one in classes}
    sources = Sources(lexicon, None, None, 1)
    draw_table(classes, phrases, recipe.prompts, recipe.seed, sources, folder / "sandbox.parquet", lambda: None)
    return PromptTable.load(folder / "sandbox.parquet")


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer of the test's own: a token a word, and the marks of beginning and end."""
    return [len(text.split()) + 2 for text in texts]


def embed_letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit rows: how often each letter of the alphabet occurs."""
    rows = np.array([[1 + text.count(chr(97 + letter)) for letter in range(26)] for text in texts], np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# what is counted


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=12), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_the_counts_agree_with_plain_counting(
    tmp_path_factory: pytest.TempPathFactory, classes: list[list[str]]
) -> None:
    found = measure_diversity(table(tmp_path_factory.mktemp("rows"), [("a", texts) for texts in classes]), seed=1)
    distinct = [len(set(texts)) for texts in classes]
    everywhere = len({text for texts in classes for text in texts})
    assert [one.num_distinct for one in found.classes] == distinct
    assert (found.total("num_prompts"), found.num_distinct) == (sum(map(len, classes)), everywhere)
    assert found.total("num_nameless") == sum(text != "a" for texts in classes for text in texts)
    inside, outside = sum(map(len, classes)) - sum(distinct), sum(distinct) - everywhere
    assert report_lines(found)[-1] == f"repeats inside a class: {inside}; of another class: {outside}"


def test_the_name_counts_as_missing_where_its_words_do_not_stand_in_the_text(tmp_path: Path) -> None:
    texts = ["A Great White  shark.", "two great-white sharks", "a white shark", "greatwhite shark", "something"]
    prompts = table(tmp_path, [("great white shark", texts)], meaning="great white shark, the fish")
    assert "class name missing in the whole text: 3 of 5 prompts (60.0 %)" in report_lines(
        measure_diversity(prompts, seed=0)
    )


def test_what_the_encoder_cuts_is_counted_and_shown_with_the_lost_end(tmp_path: Path) -> None:
    long = "a photo of a thing on a very wide lawn in soft light, a crane, a woodcut print"
    prompts = table(tmp_path, [("crane", [long, "a crane"])], style="a woodcut print")
    found = measure_diversity(prompts, seed=0, count_tokens=count_words, limit=17)
    assert found.total("num_cut") == 1
    assert found.lost == {"tokens": 3, "looked at": 1, "names": 0, "styles": 1}
    assert [(one.value, one.texts) for one in found.longest] == [
        (20, (long.removesuffix(" a woodcut print"), " a woodcut print"))
    ]
    assert found.lengths == {4: 1, 20: 1}
    found = measure_diversity(prompts, seed=0, count_tokens=count_words, limit=14)
    assert (found.lost["names"], found.lost["styles"]) == (1, 1)
    assert "over 14 tokens: 1 of 2 prompts (50.0 %), 6 tokens lost" in report_lines(found)


@given(st.lists(st.text("ab \n", max_size=60).filter(str.strip), min_size=1, max_size=6), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_the_kept_part_is_the_longest_run_of_whole_words_that_fits(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], limit: int
) -> None:
    prompts = table(tmp_path_factory.mktemp("long"), [("a", texts)])
    found = measure_diversity(prompts, seed=0, count_tokens=count_words, limit=limit)
    assert found.total("num_cut") == sum(length > limit for length in count_words(texts))
    for one in found.longest:
        kept, lost = one.texts
        assert kept + lost == texts[one.prompt_ids[0]]
        assert kept.split() == (kept + lost).split()[: limit - 2]


def test_tokens_are_those_of_a_real_clip_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = home() / "sandbox" / "models" / "generator" / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), truncation=False)["input_ids"]]

    text = "two, " + "black ink on white paper, " * 40 + "a pencil outline"
    prompts = table(tmp_path, [("two", [text, "two"])], style="a pencil outline")
    found = measure_diversity(prompts, seed=0, count_tokens=count_tokens)
    kept_by_encoder = str(
        tokenizer.decode(tokenizer(text, truncation=True, max_length=77)["input_ids"], skip_special_tokens=True)
    )
    kept, lost = found.longest[0].texts
    assert re.sub(r"\W", "", kept_by_encoder).startswith(re.sub(r"\W", "", kept))
    one_word_more = f"{kept} {lost.split()[0]}"
    assert count_tokens([kept])[0] <= 77 < count_tokens([one_word_more])[0]
    assert found.lost["styles"] == 1


def test_flagged_words_are_counted_but_not_those_of_the_name(tmp_path: Path) -> None:
    prompts = table(
        tmp_path,
        [
            ("crane", ["a crane with a Watermark", "a bloody crane, watermark", "a crane by a bloodhound", "a crane"]),
            ("comic strip", ["a comic strip", "a comic strip, a Q.R.-code", "a comic strip with a QR-code"]),
        ],
    )
    found = measure_diversity(prompts, seed=0)
    assert found.flags == {"watermark": 2, "bloody": 1, "qr code": 1}
    assert found.first_flagged["qr code"].prompt_ids == (2,)
    assert [one.num_flagged for one in found.classes] == [2, 1]


def test_every_flagged_word_is_found_alone_and_in_a_sentence() -> None:
    words = [word for _, words in flag_groups().values() for word in words]
    assert len(words) == len(set(words)) > 100
    for word in words:
        assert word in flagged_words(f"a crane {word} here")
        assert flagged_words(word)
        assert group_of(word) in flag_groups()


def test_our_own_words_for_prompts_hold_no_flagged_word() -> None:
    """Styles are left out: one may be named after what it is made like, such as a collage."""
    from gen.names.display_name import plain_words
    from gen.wording.caption_examples import caption_pools
    from gen.wording.lexicon import DRAWN_PARTS
    from shards.labels.classes import KINDS

    pools = caption_pools()
    texts = [*pools.things, *pools.surfaces]
    texts += [one.caption for pool in (pools.concept, pools.relation, pools.background, pools.texture) for one in pool]
    for name in ("general", "sandbox"):
        lexicon = load_lexicon(name)
        texts += [word for part in DRAWN_PARTS for kind in KINDS for word in lexicon.words(part, kind)]
    assert [text for text in texts if flagged_words(plain_words(text))] == []


# what is compared


@given(
    st.lists(
        st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=7, unique=True
    )
)
@settings(max_examples=100, deadline=None)
def test_the_most_alike_pair_shares_most_words_by_counting(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    def shared(one: str, other: str) -> float:
        sets = [set(words) | set(pairwise(words)) for words in (one.split(), other.split())]
        return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if sets[0] | sets[1] else 1.0

    [pair] = measure_diversity(table(tmp_path_factory.mktemp("pair"), [("a", texts)]), seed=0).pairs
    assert pair.value == pytest.approx(shared(*pair.texts))
    assert pair.value == pytest.approx(max(shared(one, other) for one, other in combinations(texts, 2)))
    assert pair.texts == tuple(texts[prompt_id] for prompt_id in pair.prompt_ids)


def test_the_sample_is_bounded_drawn_by_the_seed_and_its_figures_repeat(tmp_path: Path) -> None:
    rng = Random(3)
    texts = [" ".join(rng.choice("abcdefghijkl") for _ in range(9)) for _ in range(300)]
    prompts = table(tmp_path, [("a", texts), ("b", texts[:20])])
    found, other = (measure_diversity(prompts, seed=seed, sample=30) for seed in (5, 6))
    assert measure_diversity(prompts, seed=5, sample=30) == found
    assert other.classes[0].distinct_pairs != found.classes[0].distinct_pairs
    pairs = [pair for text in texts[:20] for pair in pairwise(text.split())]
    assert other.classes[1].distinct_pairs == found.classes[1].distinct_pairs == len(set(pairs)) / len(pairs)


def test_the_distance_is_the_mean_over_all_pairs_of_embeddings(tmp_path: Path) -> None:
    texts = ["a marsh", "a meadow", "a zoo", "a quay"]
    found = measure_diversity(table(tmp_path, [("a", texts), ("zoo", ["zoo"])]), seed=0, embed=embed_letters)
    rows = embed_letters(texts).astype(float)
    cosines = {(one, other): float(rows[one] @ rows[other]) for one, other in combinations(range(4), 2)}
    assert found.classes[0].distance == pytest.approx(1 - sum(cosines.values()) / 6, abs=1e-9)
    assert found.classes[1].distance is None
    assert found.mean("distance") == found.classes[0].distance
    assert found.pairs[0].value == pytest.approx(max(cosines.values()), abs=1e-9)
    assert found.pairs[0].prompt_ids == max(cosines, key=cosines.__getitem__)


def test_the_most_alike_pair_is_of_two_different_texts(tmp_path: Path) -> None:
    texts = ["a crane in a marsh", "a crane in a marsh", "a crane in a zoo", "a lake"]
    for embed in (None, embed_letters):
        [pair] = measure_diversity(table(tmp_path, [("crane", texts)]), seed=0, embed=embed).pairs
        assert pair.prompt_ids[0] == 0
        assert len(set(pair.texts)) == 2


def test_varied_prompts_score_as_more_varied_than_one_sentence(tmp_path: Path) -> None:
    rng = Random(0)
    places = ["in a misty marsh", "by a grey harbour", "on a red roof", "under old elms", "beyond the fence"]
    lights = ["at dawn", "in hard sun", "by lamplight", "under thin cloud", "in the blue hour"]
    varied = [f"crane {rng.choice(places)}, {rng.choice(lights)}, from angle {at}" for at in range(40)]
    plain = [f"a photo of a crane in a misty marsh at dawn, number {at}" for at in range(40)]
    found = measure_diversity(table(tmp_path, [("crane", varied), ("crane", plain)]), seed=0, embed=embed_letters)
    one, other = found.classes
    assert (one.distinct_pairs or 0) > (other.distinct_pairs or 1)
    assert (one.distance or 0) > (other.distance or 1)


def test_a_callable_that_answers_in_another_shape_is_refused(tmp_path: Path) -> None:
    prompts = table(tmp_path, [("a", ["x", "y"])])
    with pytest.raises(ValueError, match="found 1 numbers for 2 texts"):
        measure_diversity(prompts, seed=0, count_tokens=lambda texts: [3])
    with pytest.raises(ValueError, match=r"found an array of shape \(1, 26\), expected 2 rows of length 1"):
        measure_diversity(prompts, seed=0, embed=lambda texts: embed_letters(texts[:1]))
    with pytest.raises(ValueError, match="rows of length 1; normalise them"):
        measure_diversity(prompts, seed=0, embed=lambda texts: 2 * embed_letters(texts))


# what is said


@pytest.mark.parametrize(
    ("count", "total", "said"),
    [
        (0, 3, "0 of 3 prompts (0.0 %)"),
        (1, 1_281_000, "1 of 1,281,000 prompts (under 0.1 %)"),
        (1, 3, "1 of 3 prompts (33.3 %)"),
        (1_280_999, 1_281_000, "1,280,999 of 1,281,000 prompts (over 99.9 %)"),
        (3, 3, "3 of 3 prompts (100.0 %)"),
    ],
)
def test_only_nothing_reads_as_0_and_only_everything_as_100(count: int, total: int, said: str) -> None:
    assert share(count, total) == said


def test_the_limit_falls_between_two_bars_and_the_bars_hold_every_prompt(tmp_path: Path) -> None:
    rng = Random(1)
    texts = ["w " * rng.randint(1, 400) for _ in range(300)]
    for limit in (5, 77, 399):
        found = measure_diversity(table(tmp_path, [("w", texts)]), seed=0, count_tokens=count_words, limit=limit)
        counted = Counter[bool]()
        for bar in bars(found):
            match = re.fullmatch(r"-?\d+(?: to (\d+))? tokens: ([\d,]+) prompts", bar.label)
            assert match is not None
            counted[bar.over] += int(match[2])
            assert (bar.height > 0) == (match[2] != "0")
        assert counted[True] == found.total("num_cut") == sum(length > limit for length in count_words(texts))
        assert counted.total() == 300
        assert len(bars(found)) <= 46


def test_classes_with_most_to_look_at_come_first_and_healthy_ones_are_not_named(tmp_path: Path) -> None:
    good = [f"kite {left} {right}" for left in "abcdef" for right in ("gh", "ij", "kl")]
    bad = ["a bird", "a bird", "a bloody bird"]
    classes = [("kite", good), ("owl", ["an owl", "an owl", "owl"]), ("crane", bad), ("one", ["one"])]
    found = measure_diversity(table(tmp_path, classes), seed=0)
    assert [one.class_name for one in doubtful_classes(found)] == ["crane", "owl"]
    worst = doubtful_classes(found)[0]
    assert worst.num_doubts == 1 + 3 + 1
    assert worst.doubts == ["33 % repeat another", "100 % never say the name", "33 % have a flagged word"]
    assert sorted(one.class_name for one in least_varied(found)) == ["crane", "kite", "owl"]


def test_the_prompts_of_the_sandbox_are_healthy(tmp_path: Path) -> None:
    found = measure_diversity(sandbox_prompts(tmp_path), seed=0)
    assert found.total("num_prompts") == 10 * 120
    assert [one.doubts for one in found.classes] == [[]] * 10
    assert not any(figure.look for figure in figures(found))


def test_a_bad_table_needs_a_look_in_every_class_and_says_why(tmp_path: Path) -> None:
    """One template with another number, a few texts again and again, names that are missing."""
    numbered = [f"a photo of a crane in a misty marsh at dawn, number {at}" for at in range(60)]
    repeated = [f"an owl {word}" for word in ("asleep", "in flight", "at dusk")] * 20
    nameless = [f"a bird of kind {at} by the {at} lake under {at} trees" for at in range(60)]
    bad = table(tmp_path, [("crane", numbered), ("owl", repeated), ("kite", nameless)])
    found = measure_diversity(bad, seed=0, count_tokens=count_words, limit=13)
    reasons = {one.class_name: one.doubts for one in found.classes}
    assert reasons["crane"] == ["100 % are cut", "all say nearly the same"]
    assert reasons["owl"] == ["95 % repeat another", "all say nearly the same"]
    assert reasons["kite"][0] == "100 % never say the name"
    assert {figure.title for figure in figures(found) if figure.look} == {
        "distinct texts",
        "class name missing",
        "cut by the encoder",
    }


def test_twenty_prompts_of_all_parts_of_the_table_are_shown_first(tmp_path: Path) -> None:
    for num_classes, num_prompts in ((50, 3), (3, 40), (2, 4)):
        texts = [[f"thing {at}, try {number}" for number in range(num_prompts)] for at in range(num_classes)]
        found = measure_diversity(table(tmp_path, [(f"thing {at}", of) for at, of in enumerate(texts)]), seed=0)
        shown = [(one.class_id, *one.prompt_ids, *one.texts) for one in found.examples]
        assert len(shown) == len(set(shown)) == min(20, num_classes * num_prompts)
        assert max(class_id for class_id, *_ in shown) > 0.9 * (num_classes - 1)
        assert all(text == f"thing {class_id}, try {number}" for class_id, number, text in shown)
    write_page(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("8 of the prompts") < page.index("Figures</h2>") < page.index("Classes that need a look</h2>")


# the page


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


def tripled(text: str) -> list[str]:
    return [text, f"{text} and {text}", f"{text} logo " + "w " * 90]


def page_of(folder: Path, texts: Sequence[str]) -> tuple[Path, Diversity]:
    """A page that shows `texts` in every place that shows text: names, meanings, kinds, pairs, cut ends, flags."""
    folder.mkdir(parents=True)
    rows = [
        {
            **{"class_id": at, "prompt_id": number, "class_name": text, "meaning": f"{text}, {text}"},
            **{"kind": text[:50], "form": "", "text": prompt, "negative": ""},
        }
        for at, text in enumerate(texts)
        for number, prompt in enumerate([*tripled(text), "one text of all classes"])
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "prompts.parquet")
    found = measure_diversity(PromptTable.load(folder / "prompts.parquet"), seed=0, count_tokens=count_words)
    write_page(found, folder / "report.html")
    return folder / "report.html", found


@pytest.mark.parametrize("start", range(0, len(LOADED), 6))
def test_j3_no_text_makes_a_new_element_or_attribute(tmp_path: Path, start: int) -> None:
    payloads, plain = zip(*LOADED[start : start + 6], strict=True)
    hostile, _ = page_of(tmp_path / "hostile", payloads)
    benign, _ = page_of(tmp_path / "benign", plain)
    allowed = {(tag, tuple(attributes)) for tag, attributes in Page(benign).shape()}
    page = Page(hostile)
    assert {(tag, tuple(attributes)) for tag, attributes in page.shape()} <= allowed
    for payload in payloads:
        seen = visible(payload)[:80]
        assert any(seen in text for text in page.texts), payload[:40]
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert re.fullmatch(r"#[a-z]+", attributes.get("href") or "#main")
    text = hostile.read_text(encoding="utf-8").replace("\n", "")
    assert visible(text) == text


def test_the_page_forbids_script_and_all_that_is_not_its_own(tmp_path: Path) -> None:
    path, _ = page_of(tmp_path / "page", ["crane"])
    tags = Counter(tag for tag, _ in Page(path).elements)
    assert not set(tags) & {"script", "iframe", "object", "embed", "form", "base", "link", "img"}
    assert tags["style"] == 1
    policy = next(attributes["content"] for tag, attributes in Page(path).elements if "http-equiv" in attributes)
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[\w+/=]{44}'; base-uri 'none'; form-action 'none'", str(policy)
    )


def test_the_same_table_gives_the_same_page_and_an_older_one_is_replaced(tmp_path: Path) -> None:
    path, found = page_of(tmp_path / "page", ["crane", "owl"])
    before = path.read_bytes()
    write_page(replace(found, seed=9), path)
    assert path.read_bytes() != before
    write_page(found, path)
    assert path.read_bytes() == before
    assert {one.name for one in path.parent.iterdir()} == {"prompts.parquet", "report.html"}


def test_a_table_of_one_prompt_has_a_page(tmp_path: Path) -> None:
    found = measure_diversity(table(tmp_path, [("crane", ["crane"])]), seed=0)
    write_page(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 prompt of 1 class" in text
    assert "No class has two different prompts." in text
    assert report_lines(found)[0] == "1 prompt of 1 class, 1 distinct text"


@needs_chromium
def test_a_browser_applies_the_pages_own_style_in_light_and_in_dark(tmp_path: Path) -> None:
    from PIL import Image

    path, _ = page_of(tmp_path / "page", [hostile for hostile, _ in LOADED[:6]])
    papers = re.findall(r"--paper: #([0-9a-f]{6})", path.read_text(encoding="utf-8"))
    for paper, scheme in zip(papers, ("1", "0"), strict=True):
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,700", f"--screenshot={shot}")
        chromium(tmp_path, path, *flags)
        with Image.open(shot) as image:
            assert image.convert("RGB").getpixel((3, 690)) == tuple(bytes.fromhex(paper))


@needs_chromium
def test_j3_a_browser_runs_nothing_of_a_hostile_table(tmp_path: Path) -> None:
    path, _ = page_of(tmp_path / "page", [hostile for hostile, _ in LOADED])
    rendered = tmp_path / "rendered.html"
    rendered.write_text(chromium(tmp_path, path, "--dump-dom"), encoding="utf-8")
    assert Page(rendered).shape() == Page(path).shape()
    assert "<title>Diversity of prompts</title>" in rendered.read_text(encoding="utf-8")


def chromium(folder: Path, page: Path, *flags: str) -> str:
    command = [
        *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.torture
def test_1_281_000_prompts_are_measured_within_a_minute(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "p.parquet"
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for class_id in range(1_000):
            rows = [
                {
                    **{"class_id": class_id, "prompt_id": at, "class_name": f"thing {class_id}", "kind": "cd"},
                    **{"form": "", "negative": "", "text": f"thing {class_id}, word {a}, in place {b}, by {c}, at {d}"},
                }
                for at, (a, b, c, d) in enumerate(rng.integers(0, 60, (1_281, 4)).tolist())
            ]
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    prompts = PromptTable.load(path)
    start = time.monotonic()
    found = measure_diversity(prompts, seed=0)
    assert time.monotonic() - start < 60
    assert found.total("num_prompts") == 1_281_000
