"""The diversity report: what is counted, what is compared, and a page that treats every text as text."""

import math
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

from gen.prompts.diversity import measure_diversity
from gen.prompts.diversity_figures import Diversity, report_lines, share
from gen.prompts.diversity_page import bars, doubtful_classes, write_page
from gen.prompts.encoder_limit import kept_ends
from gen.prompts.word_overlap import distinct_n, most_alike, self_bleu
from gen.wording.flagged_words import find_flag, flag_groups, flagged_words, group_of
from shards.disk.home import home
from shards.disk.safe_text import visible
from tests.support.hostile_text import BENIGN, PAYLOADS

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not in PATH")
SCHEMA = pa.schema(
    [
        *[pa.field(name, pa.int32(), nullable=False) for name in ("class_id", "prompt_id")],
        *[pa.field(name, pa.string()) for name in ("class_name", "meaning", "kind", "style", "text")],
    ]
)
words_lists = st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=2, max_size=7)


def table(path: Path, classes: Sequence[tuple[str, Sequence[str]]], rows_per_group: int = 5, **columns: object) -> Path:
    """Class i is called as the i-th pair says and has its texts; `columns` gives a value for all rows of a column."""
    rows = [
        {"class_id": class_id, "prompt_id": prompt_id, "class_name": name, "kind": "cd", "text": text} | columns
        for class_id, (name, texts) in enumerate(classes)
        for prompt_id, text in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=rows_per_group)
    return path


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer of the test's own: a token a word, and the marks of beginning and end."""
    return [len(text.split()) + 2 for text in texts]


def embed_letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit rows: how often each letter of the alphabet occurs."""
    rows = np.array([[1 + text.count(chr(97 + letter)) for letter in range(26)] for text in texts], np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# overlap of words


def slow_self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """BLEU-4 against all others, written down from its definition."""
    scores = []
    for index, text in enumerate(texts):
        others = [other for place, other in enumerate(texts) if place != index]
        if not text:
            scores.append(0.0)
            continue
        orders = range(1, min(4, len(text)) + 1)
        product = 1.0
        for order in orders:
            runs = [tuple(text[at : at + order]) for at in range(len(text) - order + 1)]
            matches = 0
            for run in dict.fromkeys(runs):
                in_others = [
                    sum(tuple(other[at : at + order]) == run for at in range(len(other) - order + 1))
                    for other in others
                ]
                matches += min(runs.count(run), max(in_others))
            product *= (matches if matches else 0.1) / len(runs)
        distance = min(abs(len(other) - len(text)) for other in others)
        nearest = min(len(other) for other in others if abs(len(other) - len(text)) == distance)
        penalty = 1.0 if len(text) >= nearest else math.exp(1 - nearest / len(text))
        scores.append(penalty * product ** (1 / len(orders)))
    return sum(scores) / len(scores)


@given(words_lists)
@settings(max_examples=200, deadline=None)
def test_self_bleu_is_what_its_definition_says(texts: list[list[str]]) -> None:
    found = self_bleu(texts)
    assert found is not None
    assert math.isclose(found, slow_self_bleu(texts), rel_tol=1e-12, abs_tol=1e-15)


def test_self_bleu_is_1_for_equal_texts_and_low_for_texts_that_share_nothing() -> None:
    assert self_bleu([["a", "crane", "in", "a", "marsh"]] * 5) == pytest.approx(1, abs=1e-12)
    strangers = self_bleu([[f"{letter}{at}" for at in range(8)] for letter in "abcde"])
    assert strangers is not None
    assert strangers < 0.03
    assert self_bleu([["one"]]) is None


@given(words_lists)
@settings(max_examples=100, deadline=None)
def test_the_most_alike_pair_shares_most_by_counting(texts: list[list[str]]) -> None:
    def shared(one: list[str], other: list[str]) -> float:
        sets = [set(words) | set(pairwise(words)) for words in (one, other)]
        return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if sets[0] | sets[1] else 1.0

    found = most_alike(texts)
    assert found is not None
    first, second, value = found
    assert first < second
    assert value == pytest.approx(shared(texts[first], texts[second]))
    assert value == pytest.approx(max(shared(one, other) for one, other in combinations(texts, 2)))


def test_distinct_n_is_different_runs_over_all_runs() -> None:
    texts = [["a", "b", "a", "b"], ["a", "c"]]
    assert distinct_n(texts, 1) == 3 / 6
    assert distinct_n(texts, 2) == 3 / 4  # ab, ba, ab and ac
    assert distinct_n(texts, 5) is None


# what is counted


def test_repeats_and_texts_of_several_classes_are_counted_over_all_rows(tmp_path: Path) -> None:
    path = table(
        tmp_path / "p.parquet",
        [("missile", ["a missile", "a missile on a lawn"]), ("missile", ["a missile", "a missile", "x missile"])],
        rows_per_group=2,
    )
    found = measure_diversity(path, seed=0)
    assert (found.num_prompts, found.num_distinct, found.num_repeats, found.num_shared) == (5, 3, 1, 1)
    assert [(text.text, text.count, text.classes) for text in found.shared] == [
        ("a missile", 3, ((0, "missile"), (1, "missile")))
    ]
    assert [(one.num_prompts, one.num_distinct) for one in found.classes] == [(2, 2), (3, 2)]


@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=12), min_size=1, max_size=9), st.data())
@settings(max_examples=60, deadline=None)
def test_the_counts_agree_with_plain_counting_however_the_rows_are_grouped(
    tmp_path_factory: pytest.TempPathFactory, classes: list[list[str]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "p.parquet"
    rows_per_group = data.draw(st.integers(1, 9))
    table(path, [("a", texts) for texts in classes], rows_per_group)
    found = measure_diversity(path, seed=1)
    of_text = {text: {at for at, texts in enumerate(classes) if text in texts} for texts in classes for text in texts}
    assert found.num_prompts == sum(map(len, classes))
    assert found.num_distinct == len(of_text)
    assert found.num_shared == sum(len(holders) > 1 for holders in of_text.values())
    assert {text.text: {one for one, _ in text.classes} for text in found.shared}.items() <= of_text.items()
    assert found.num_nameless == sum(text != "a" for texts in classes for text in texts)


def test_the_name_counts_as_missing_where_its_words_do_not_stand_in_the_text(tmp_path: Path) -> None:
    texts = ["A Great White  shark.", "two great-white sharks", "a white shark", "greatwhite shark", "something"]
    path = table(tmp_path / "p.parquet", [("great white shark", texts)], meaning="great white shark, the fish")
    found = measure_diversity(path, seed=0)
    assert found.num_nameless == 3
    assert "class name missing: 3 of 5 prompts (60.0 %)" in report_lines(found)


def test_what_the_encoder_cuts_is_counted_and_shown_with_the_lost_end(tmp_path: Path) -> None:
    long = "a photo of a thing on a very wide lawn in soft light, a crane, a woodcut print"
    path = table(tmp_path / "p.parquet", [("crane", [long, "a crane"])], style="a woodcut print")
    found = measure_diversity(path, seed=0, count_tokens=count_words, limit=17)
    assert (found.num_cut, found.num_tokens_lost, found.num_cut_seen) == (1, 3, 1)
    assert (found.num_name_lost, found.num_style_lost) == (0, 1)
    assert [(one.length, one.kept, one.lost) for one in found.longest] == [
        (20, long.removesuffix(" a woodcut print"), " a woodcut print")
    ]
    assert found.lengths == ((4, 1), (20, 1))
    found = measure_diversity(path, seed=0, count_tokens=count_words, limit=14)
    assert (found.num_name_lost, found.num_style_lost) == (1, 1)
    assert "over 14 tokens: 1 of 2 prompts (50.0 %), 6 tokens lost" in report_lines(found)


@given(st.lists(st.text("ab \n", min_size=1, max_size=60), min_size=1, max_size=6), st.integers(2, 9))
@settings(max_examples=100, deadline=None)
def test_the_kept_part_is_the_longest_run_of_whole_words_that_fits(texts: list[str], limit: int) -> None:
    long = [text for text, length in zip(texts, count_words(texts), strict=True) if length > limit]
    for text, end in zip(long, kept_ends(long, count_words, limit), strict=True):
        assert text[:end].split() == text.split()[: limit - 2]


def test_tokens_are_those_of_a_real_clip_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = home() / "sandbox" / "models" / "generator" / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(list(texts), truncation=False)["input_ids"]]

    text = "two, " + "black ink on white paper, " * 40 + "a pencil outline"
    path = table(tmp_path / "p.parquet", [("two", [text, "two"])], style="a pencil outline")
    found = measure_diversity(path, seed=0, count_tokens=count_tokens)
    kept_by_encoder = str(
        tokenizer.decode(tokenizer(text, truncation=True, max_length=77)["input_ids"], skip_special_tokens=True)
    )
    kept = found.longest[0].kept
    assert re.sub(r"\W", "", kept_by_encoder).startswith(re.sub(r"\W", "", kept))
    one_word_more = f"{kept} {found.longest[0].lost.split()[0]}"
    assert count_tokens([kept])[0] <= 77 < count_tokens([one_word_more])[0]
    assert found.num_style_lost == 1


def test_flagged_words_are_counted_but_not_those_of_the_name(tmp_path: Path) -> None:
    path = table(
        tmp_path / "p.parquet",
        [
            ("crane", ["a crane with a Watermark", "a bloody crane, watermark", "a crane by a bloodhound", "a crane"]),
            ("comic strip", ["a comic strip", "a comic strip, a Q.R.-code", "a comic strip with a QR-code"]),
        ],
    )
    found = measure_diversity(path, seed=0)
    assert [(one.word, one.count, one.found) for one in found.flagged] == [
        ("watermark", 2, "Watermark"),
        ("bloody", 1, "bloody"),
        ("qr code", 1, "QR-code"),
    ]
    assert [(one.num_flagged, one.flags_of_name) for one in found.classes] == [(2, ()), (1, ("comic strip",))]
    assert found.num_flagged == 3


def test_every_flagged_word_is_found_alone_and_in_a_sentence() -> None:
    words = [word for _, words in flag_groups().values() for word in words]
    assert len(words) == len(set(words)) > 100
    for word in words:
        assert word in flagged_words(f"a crane {word} here")
        assert flagged_words(word)
        assert group_of(word) in flag_groups()
        start, end = find_flag(f"A crane, {word.upper()}!", word)
        assert (start, end) == (9, 9 + len(word))


def test_our_own_words_for_prompts_hold_no_flagged_word() -> None:
    """Styles are left out: one may be named after what it is made like, such as a collage."""
    from gen.names.display_name import plain_words
    from gen.names.kind import KINDS
    from gen.wording.caption_examples import caption_pools
    from gen.wording.lexicon import DRAWN_PARTS, load_lexicon

    pools = caption_pools()
    texts = [*pools.things, *pools.surfaces]
    texts += [one.caption for pool in (pools.concept, pools.relation, pools.background, pools.texture) for one in pool]
    for name in ("general", "sandbox"):
        lexicon = load_lexicon(name)
        texts += [word for part in DRAWN_PARTS for kind in KINDS for word in lexicon.words(part, kind)]
    assert [text for text in texts if flagged_words(plain_words(text))] == []


# what is compared


def test_the_sample_is_bounded_drawn_by_the_seed_and_its_figures_repeat(tmp_path: Path) -> None:
    rng = Random(3)
    texts = [" ".join(rng.choice("abcdefghijkl") for _ in range(9)) for _ in range(300)]
    path = table(tmp_path / "p.parquet", [("a", texts), ("b", texts[:20])])
    found = measure_diversity(path, seed=5, sample=30)
    assert [one.num_sampled for one in found.classes] == [30, 20]
    assert measure_diversity(path.read_bytes(), seed=5, sample=30) == found
    other = measure_diversity(path, seed=6, sample=30)
    assert other.classes[0].self_bleu != found.classes[0].self_bleu
    assert other.classes[1].self_bleu == found.classes[1].self_bleu == self_bleu([text.split() for text in texts[:20]])


def test_the_distance_is_the_mean_over_all_pairs_of_embeddings(tmp_path: Path) -> None:
    texts = ["a marsh", "a meadow", "a zoo", "a quay"]
    found = measure_diversity(
        table(tmp_path / "p.parquet", [("a", texts), ("zoo", ["zoo"])]), seed=0, embed=embed_letters
    )
    rows = embed_letters(texts).astype(float)
    cosines = {(one, other): float(rows[one] @ rows[other]) for one, other in combinations(range(4), 2)}
    assert found.classes[0].distance == pytest.approx(1 - sum(cosines.values()) / 6, abs=1e-9)
    assert found.classes[1].distance is None
    assert found.distance == found.classes[0].distance
    assert found.pairs[0].alike == pytest.approx(max(cosines.values()), abs=1e-9)
    nearest = max(cosines, key=cosines.__getitem__)
    assert (found.pairs[0].one.prompt_id, found.pairs[0].other.prompt_id) == nearest


def test_the_most_alike_pair_is_of_two_different_texts(tmp_path: Path) -> None:
    texts = ["a crane in a marsh", "a crane in a marsh", "a crane in a zoo", "a lake"]
    for embed in (None, embed_letters):
        found = measure_diversity(table(tmp_path / "p.parquet", [("crane", texts)]), seed=0, embed=embed)
        assert [(pair.one.prompt_id, pair.text != pair.other_text) for pair in found.pairs] == [(0, True)]


def test_varied_prompts_score_as_more_varied_than_one_sentence(tmp_path: Path) -> None:
    rng = Random(0)
    places = ["in a misty marsh", "by a grey harbour", "on a red roof", "under old elms", "beyond the fence"]
    lights = ["at dawn", "in hard sun", "by lamplight", "under thin cloud", "in the blue hour"]
    varied = [f"crane {rng.choice(places)}, {rng.choice(lights)}, from angle {at}" for at in range(40)]
    plain = [f"a photo of a crane in a misty marsh at dawn, number {at}" for at in range(40)]
    found = measure_diversity(
        table(tmp_path / "p.parquet", [("crane", varied), ("crane", plain)]), seed=0, embed=embed_letters
    )
    one, other = found.classes
    for more, less in ((one.distinct_2, other.distinct_2), (one.distance, other.distance)):
        assert more is not None
        assert less is not None
        assert more > less
    assert one.self_bleu is not None
    assert other.self_bleu is not None
    assert one.self_bleu < other.self_bleu


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.unlink(), "found no prompt table, expected one"),
        (lambda path: path.write_bytes(b"PAR1 no"), "found a damaged table"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "found a damaged table"),
        (lambda path: table(path, []), "found no prompt, expected at least one"),
        (lambda path: table(path, [("a", ["x"])], text=None), "found an empty cell"),
        (lambda path: pq.write_table(pa.table({"text": ["x"]}), path), "found no column class_id"),
        (
            lambda path: pq.write_table(pa.concat_tables([pq.read_table(path).slice(1), pq.read_table(path)]), path),
            "found class 0 after class 1, expected ascending ids",
        ),
    ],
)
def test_what_is_no_prompt_table_is_refused_in_one_line(tmp_path: Path, make: object, message: str) -> None:
    path = table(tmp_path / "p.parquet", [("a", ["x"]), ("b", ["y"])])
    assert callable(make)
    make(path)
    with pytest.raises(ValueError, match=message) as error:
        measure_diversity(path, seed=0)
    assert "\n" not in str(error.value)


def test_a_callable_that_answers_in_another_shape_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", [("a", ["x", "y"])])
    with pytest.raises(ValueError, match="found 1 numbers for 2 texts"):
        measure_diversity(path, seed=0, count_tokens=lambda texts: [3])
    with pytest.raises(ValueError, match=r"found an array of shape \(1, 26\), expected 2 rows of length 1"):
        measure_diversity(path, seed=0, embed=lambda texts: embed_letters(texts[:1]))
    with pytest.raises(ValueError, match="rows of length 1; normalise them"):
        measure_diversity(path, seed=0, embed=lambda texts: 2 * embed_letters(texts))


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
        found = measure_diversity(
            table(tmp_path / "p.parquet", [("w", texts)]), seed=0, count_tokens=count_words, limit=limit
        )
        counted = Counter[bool]()
        for bar in bars(found):
            match = re.fullmatch(r"-?\d+(?: to (\d+))? tokens: ([\d,]+) prompts", bar.label)
            assert match is not None
            counted[bar.over] += int(match[2])
            assert (bar.height > 0) == (match[2] != "0")
        assert counted[True] == found.num_cut == sum(length > limit for length in count_words(texts))
        assert counted.total() == 300
        assert len(bars(found)) <= 46


def test_classes_with_most_to_look_at_come_first(tmp_path: Path) -> None:
    good = [f"kite {left} {right}" for left in "abcdef" for right in ("gh", "ij", "kl")]
    path = table(
        tmp_path / "p.parquet",
        [("kite", good), ("crane", ["a bird", "a bird", "a bloody bird"]), ("owl", [*good[:9], "owl"])],
    )
    lines = doubtful_classes(measure_diversity(path, seed=0))
    assert lines[0].one.class_name == "crane"
    assert lines[0].reasons == ("repeats itself", "name missing", "flagged words", "least diverse")


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
            "class_id": at,
            "prompt_id": number,
            "class_name": text,
            "meaning": f"{text}, {text}",
            "kind": text[:50],
            "text": prompt,
        }
        for at, text in enumerate(texts)
        for number, prompt in enumerate([*tripled(text), "one text of all classes"])
    ]
    path = folder / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    found = measure_diversity(path, seed=0, count_tokens=count_words)
    write_page(found, folder / "report.html")
    return folder / "report.html", found


@pytest.mark.parametrize("start", range(0, len(PAYLOADS), 6))
def test_j3_no_text_makes_a_new_element_or_attribute(tmp_path: Path, start: int) -> None:
    hostile, _ = page_of(tmp_path / "hostile", PAYLOADS[start : start + 6])
    benign, _ = page_of(tmp_path / "benign", BENIGN[start : start + 6])
    allowed = {(tag, tuple(attributes)) for tag, attributes in Page(benign).shape()}
    page = Page(hostile)
    assert {(tag, tuple(attributes)) for tag, attributes in page.shape()} <= allowed
    for payload in PAYLOADS[start : start + 6]:
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
    found = measure_diversity(table(tmp_path / "p.parquet", [("crane", ["crane"])]), seed=0)
    write_page(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 prompt of 1 class" in text
    assert "No class has two different prompts." in text
    assert report_lines(found)[0] == "1 prompt of 1 class, 1 distinct text"


@needs_chromium
def test_a_browser_applies_the_pages_own_style_in_light_and_in_dark(tmp_path: Path) -> None:
    from PIL import Image

    path, _ = page_of(tmp_path / "page", PAYLOADS[:6])
    papers = re.findall(r"--paper: #([0-9a-f]{6})", path.read_text(encoding="utf-8"))
    for paper, scheme in zip(papers, ("1", "0"), strict=True):
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,700", f"--screenshot={shot}")
        chromium(tmp_path, path, *flags)
        with Image.open(shot) as image:
            assert image.convert("RGB").getpixel((3, 690)) == tuple(bytes.fromhex(paper))


@needs_chromium
def test_j3_a_browser_runs_nothing_of_a_hostile_table(tmp_path: Path) -> None:
    path, _ = page_of(tmp_path / "page", PAYLOADS)
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


# scale


@pytest.mark.torture
def test_1_281_000_prompts_are_measured_within_a_minute(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "p.parquet"
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for class_id in range(1_000):
            picks = rng.integers(0, 60, (1_281, 4)).tolist()
            rows = {
                "class_id": [class_id] * 1_281,
                "prompt_id": list(range(1_281)),
                "class_name": [f"thing {class_id}"] * 1_281,
                "meaning": [None] * 1_281,
                "kind": ["cd"] * 1_281,
                "style": [None] * 1_281,
                "text": [
                    f"a photo of thing {class_id}, word {a}, in place {b}, by light {c}, seen {d}"
                    for a, b, c, d in picks
                ],
            }
            writer.write_table(pa.table(rows, SCHEMA))
    start = time.monotonic()
    found = measure_diversity(path, seed=0)
    assert time.monotonic() - start < 60
    assert found.num_prompts == 1_281_000
