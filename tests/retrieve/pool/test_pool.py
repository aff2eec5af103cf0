"""A pool: other people's tables, vectors and tars as one list of rows; flagged and blocked ones never leave."""

import hashlib
import random
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieve.pool.images import PoolImages
from retrieve.pool.pool import KEPT, ROW, open_pool
from retrieve.pool.spec import PoolSpec
from tests.support.small_pool import pool_of, write_table, write_tar, write_vectors

LAION = {"URL": ["http://a/1", "http://a/2"], "TEXT": ["a crane", "a die"], "NSFW": ["NSFW", "UNSURE"]}


def captions(pool, rows):
    return pool.take(rows, ["caption"])["caption"].to_pylist()


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (LAION, {"url": "URL", "caption": "TEXT", "nsfw": "NSFW"}),
        ({"url": ["u"], "text": ["t"], "nsfw_score_opennsfw2": [0.1]}, {"url": "url", "caption": "text"}),
        ({"uid": ["a"], "url": ["u"], "text": ["t"], "sha256": ["0"]}, {"caption": "text", "sha256": "sha256"}),
        ({"image_path": ["1"], "caption": ["c"]}, {"key": "image_path", "caption": "caption"}),
        ({"key": ["000000001"], "caption": ["c"], "url": ["u"], "status": ["success"]}, {"key": "key"}),
    ],
    ids=["LAION", "COYO", "DataComp", "clip-retrieval", "img2dataset"],
)
def test_the_columns_of_known_data_sets_are_found_in_any_case(tmp_path, columns, roles):
    write_table(tmp_path / "0.parquet", **columns)
    assert roles.items() <= pool_of(tmp_path).columns.names.items()


def test_a_column_with_another_name_is_told_by_the_recipe(tmp_path):
    write_table(tmp_path / "0.parquet", words=["a crane"])
    with pytest.raises(
        ValueError, match=r"no column of captions among 'words'.*; name it with pool.columns.caption=NAME"
    ):
        pool_of(tmp_path)
    assert captions(pool_of(tmp_path, columns={"caption": "words"}), [0]) == ["a crane"]


def test_rows_are_counted_over_all_tables_in_the_order_of_their_names(tmp_path):
    write_table(tmp_path / "metadata" / "1.parquet", caption=["e", "f"])
    write_table(tmp_path / "metadata" / "0.parquet", caption=["a", "b", "c", "d"])
    pool = pool_of(tmp_path)
    assert pool.num_rows == 6
    assert captions(pool, [5, 0, 4, 0, 3]) == ["f", "a", "e", "a", "d"]
    assert captions(pool, []) == []
    scanned = [row for part in pool.parts for table in pool.scan(part, ["caption"], 3) for row in table.to_pylist()]
    assert [(row[ROW], row["caption"]) for row in scanned] == list(enumerate("abcdef"))
    with pytest.raises(IndexError):
        pool.take([6], ["caption"])


def test_flagged_and_blocked_rows_are_kept_by_neither_way_of_reading(tmp_path):
    sha = hashlib.sha256(b"x").hexdigest()
    write_table(
        tmp_path / "0.parquet",
        TEXT=list("abcdefg"),
        URL=[f"http://a/{one}" for one in range(7)],
        NSFW=["NSFW", "nsfw", "UNSURE", None, "UNLIKELY", "UNLIKELY", "UNLIKELY"],
        punsafe=[0.0, 0.0, 0.4, 0.9, None, 0.1, 0.1],
        sha256=[None, "0", "1", "2", "3", sha.upper(), "4"],
    )
    (tmp_path / "block.txt").write_text(f"# ours\n\nhttp://a/6\n{sha}\n")
    pool = pool_of(tmp_path, block=[str(tmp_path / "block.txt")])
    taken = pool.take(range(7), [])[KEPT].to_pylist()
    assert taken == [False, False, True, False, True, False, False]
    assert [one for table in pool.scan(pool.parts[0], [], 2) for one in table[KEPT].to_pylist()] == taken


DIGEST = hashlib.sha256(b"x")
HEX = DIGEST.hexdigest()
BLOCKED = {  # column -> (values of a row that goes and of one that stays, which are told as texts)
    "url": ("http://a/6", "http://a/7"),
    "sha256": (HEX.upper(), "0" * 64),
    "status": ("failed_to_download", "success"),
    "NSFW": ("NSFW", "UNSURE"),
}
TYPES = {
    "text": lambda texts: pa.array(texts),
    "categories": lambda texts: pa.array(texts).dictionary_encode(),
    "large text": lambda texts: pa.array(texts, pa.large_string()),
    "views": lambda texts: pa.array(texts, pa.string_view()),
    "large categories": lambda texts: pa.array(texts, pa.large_string()).dictionary_encode(),
    "bytes of a text": lambda texts: pa.array([text.encode() for text in texts]),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", BLOCKED)
def test_a_row_goes_whatever_type_the_column_has_that_says_so(tmp_path, name, kind):
    pq.write_table(pa.table({"caption": ["a", "b"], name: TYPES[kind](BLOCKED[name])}), tmp_path / "0.parquet")
    (tmp_path / "block.txt").write_text(f"http://a/6\n{HEX}\n")
    pool = pool_of(tmp_path, block=[str(tmp_path / "block.txt")])
    assert pool.take([0, 1], [])[KEPT].to_pylist() == [False, True]
    told = pool.take([0, 1], [name.lower()])[name.lower()]
    expected = [text.lower() if name == "sha256" else text for text in BLOCKED[name]]
    assert (told.type, told.to_pylist()) == (pa.string(), expected)


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(32), pa.large_binary(), pa.binary_view()])
def test_hashes_that_stand_as_their_bytes_are_told_in_hexadecimal_digits(tmp_path, kind):
    hashes = pa.array([DIGEST.digest(), None, bytes(32)], kind)
    pq.write_table(pa.table({"caption": ["a", "b", "c"], "sha256": hashes}), tmp_path / "0.parquet")
    (tmp_path / "block.txt").write_text(HEX)
    taken = pool_of(tmp_path, block=[str(tmp_path / "block.txt")]).take([0, 1, 2], ["sha256"])
    assert taken[KEPT].to_pylist() == [False, True, True]
    assert taken["sha256"].to_pylist() == [HEX, None, "0" * 64]


@pytest.mark.parametrize(
    "hashes",
    [["", "  ", None, f" {HEX.upper()}\n"], [b"", b"", None, HEX.upper().encode()], [b"", b"", None, DIGEST.digest()]],
    ids=["texts", "bytes of texts", "bytes"],
)
def test_an_empty_hash_is_none_and_hashes_have_one_spelling(tmp_path, hashes):
    write_table(tmp_path / "0.parquet", caption=list("abcd"), sha256=hashes)
    assert pool_of(tmp_path).take(range(4), ["sha256"])["sha256"].to_pylist() == [None, None, None, HEX]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("punsafe", ["0.9", "", None, " 0.1"]),
        ("punsafe", pa.array([1, 0, None, 0], pa.int8())),
        ("punsafe", pa.array([True, False, None, False])),
        ("punsafe", pa.array(["0.9", "0.2", None, "0.2"]).dictionary_encode()),
        ("nsfw", ["0.9", "", None, "0.1"]),
        ("nsfw", pa.array([0.9, 0.0, None, 0.5], pa.float32())),
        ("nsfw", pa.array([True, False, None, False])),
        ("nsfw", ["nsfw", "UNLIKELY", None, "UNSURE"]),
    ],
)
def test_a_probability_or_a_word_says_that_a_row_is_unsafe_in_any_type(tmp_path, name, values):
    pq.write_table(pa.table({"caption": list("abcd"), name: values}), tmp_path / "0.parquet")
    assert pool_of(tmp_path).take(range(4), [])[KEPT].to_pylist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("url", [["http://a/6"]], r"list<.*for url, expected texts"),
        ("sha256", [b"0" * 16], r"a hash of 16 bytes"),
        ("sha256", [7], r"int64 for sha256, expected texts"),
        ("status", [0], r"int64 for status, expected texts"),
        ("punsafe", ["UNSURE"], r"string for punsafe, expected numbers"),
        ("punsafe", [[0.9]], r"list<.*for punsafe, expected numbers"),
        ("nsfw", [{"a": 1}], r"struct<.*for nsfw, expected texts"),
        ("caption", [3], r"int64 for caption, expected texts"),
        ("caption", [b"\xff"], r"binary for caption, expected texts"),
    ],
)
def test_a_column_of_another_type_is_refused_with_its_file_its_name_and_what_to_do(tmp_path, name, values, said):
    pq.write_table(pa.table({"caption": ["a"], name: values}), tmp_path / "0.parquet")
    (tmp_path / "block.txt").write_text(f"http://a/6\n{HEX}\n")
    pool = pool_of(tmp_path, block=[str(tmp_path / "block.txt")])
    for ask in (lambda: pool.take([0], ["caption"]), lambda: list(pool.scan(pool.parts[0], ["caption"]))):
        with pytest.raises(
            ValueError, match=rf"0\.parquet: column '{name}': found .*{said}.*pool\.columns\.{name}=NAME"
        ) as error:
            ask()
        assert "\n" not in str(error.value)


def test_tables_whose_types_differ_are_one_pool(tmp_path):
    parts = [
        {"caption": pa.array(["a"]), "sha256": pa.nulls(1), "punsafe": pa.array([0.9], pa.float32())},
        {
            "caption": pa.array(["b"], pa.large_string()),
            "sha256": pa.array([HEX]).dictionary_encode(),
            "punsafe": pa.array([0.1], pa.float64()),
        },
        {"caption": pa.array(["c"]).dictionary_encode(), "sha256": pa.array([bytes(32)]), "punsafe": pa.nulls(1)},
    ]
    keys = [pa.array([1], pa.int32()), pa.array([2]), pa.array(["3"])]
    widths = [pa.array([1], pa.int32()), pa.array([2.5]), pa.nulls(1)]
    for number, columns in enumerate(parts):
        told = {**columns, "key": keys[number], "width": widths[number]}
        pq.write_table(pa.table(told), tmp_path / f"{number}.parquet")
    pool = pool_of(tmp_path)
    taken = pool.take([2, 0, 1], ["caption", "sha256", "punsafe", "key", "width"])
    assert taken["caption"].to_pylist() == ["c", "a", "b"]
    assert taken["sha256"].to_pylist() == ["0" * 64, None, HEX]
    assert taken["key"].to_pylist() == ["3", "1", "2"]
    assert taken[KEPT].to_pylist() == [True, False, True]
    roles = ["caption", "sha256", "punsafe", "key"]
    scanned = [table for part in pool.parts for table in pool.scan(part, roles)]
    assert all(table.schema == pool.take([], roles).schema for table in scanned)


def test_a_line_of_a_block_list_that_is_neither_address_nor_hash_is_named(tmp_path):
    write_table(tmp_path / "0.parquet", caption=["a"])
    (tmp_path / "block.txt").write_text("http://a/6\nabc\n")
    with pytest.raises(ValueError, match=r"block.txt: line 2: found 'abc', expected an address or a sha256"):
        pool_of(tmp_path, block=[str(tmp_path / "block.txt")])


@pytest.mark.parametrize("first", ["http://a/1", HEX])
def test_the_first_line_of_a_block_list_with_a_byte_order_mark_counts(tmp_path, first):
    write_table(tmp_path / "0.parquet", caption=["a", "b"], url=["http://a/1", "http://a/2"], sha256=[HEX, None])
    (tmp_path / "block.txt").write_text(f"\ufeff{first}\n", encoding="utf-8")
    pool = pool_of(tmp_path, block=[str(tmp_path / "block.txt")])
    assert pool.take([0, 1], [])[KEPT].to_pylist() == [False, True]


def test_vectors_are_read_by_row_and_in_blocks_whatever_their_files_are(tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    vectors = np.random.default_rng(seed).normal(size=(10, 8))
    write_table(tmp_path / "0.parquet", caption=[str(one) for one in range(10)])
    for number, (start, end) in enumerate([(0, 4), (4, 5), (5, 10)]):
        write_vectors(tmp_path / "img_emb" / f"img_emb_{number}.npy", vectors[start:end])
    image = pool_of(tmp_path).image
    assert (image.num_rows, image.dim) == (10, 8)
    whole = np.concatenate([np.asarray(block) for _, block in image.blocks(100)])
    rows = np.random.default_rng(seed).integers(0, 10, 30)
    assert np.array_equal(image.take(rows), whole[rows].astype(np.float32))
    assert [(first, len(block)) for first, block in image.blocks(3)] == [(0, 3), (3, 1), (4, 1), (5, 3), (8, 2)]
    for start in range(10):
        assert np.array_equal(np.concatenate([block for _, block in image.blocks(3, start)]), whole[start:])
    assert pool_of(tmp_path).text is None


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 4), np.float64), "found float64"),
        (np.zeros(3, np.float16), r"found float16 \[3\]"),
        (np.array([None, {}], object), "Python objects|found object"),
        (np.asfortranarray(np.zeros((3, 4), np.float16)), "Fortran"),
    ],
    ids=["double", "one axis", "objects", "Fortran"],
)
def test_a_file_that_is_no_matrix_of_vectors_is_named(tmp_path, array, said):
    write_table(tmp_path / "0.parquet", caption=["a", "b", "c"])
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "0.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=said):
        pool_of(tmp_path)


def test_a_file_of_vectors_that_was_cut_is_named(tmp_path):
    write_table(tmp_path / "0.parquet", caption=["a", "b", "c"])
    write_vectors(tmp_path / "img_emb" / "0.npy", np.ones((3, 4)))
    path = tmp_path / "img_emb" / "0.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"0.npy: found 147 bytes, expected 152 for \[3, 4\]"):
        pool_of(tmp_path)


def test_half_a_pool_and_two_models_are_refused(tmp_path):
    write_table(tmp_path / "0.parquet", caption=["a", "b", "c"])
    write_vectors(tmp_path / "img_emb" / "0.npy", np.ones((2, 4)))
    with pytest.raises(ValueError, match="found 2 image vectors for 3 rows, expected as many: half a pool"):
        pool_of(tmp_path)
    write_vectors(tmp_path / "img_emb" / "1.npy", np.ones((1, 5)))
    with pytest.raises(ValueError, match="found vectors of 5 numbers, expected 4"):
        pool_of(tmp_path)


def test_what_is_no_pool_is_named_with_one_line(tmp_path):
    for content, said in ((None, "found no folder"), ("dir", "no \\*.parquet"), (b"PAR1", "found no parquet file")):
        folder = tmp_path / str(said[:8])
        if content is not None:
            folder.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (folder / "0.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            open_pool(PoolSpec(source=folder))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["images", "embeddings"])
def test_a_folder_that_is_named_and_not_there_is_not_taken_for_none(tmp_path, name):
    write_table(tmp_path / "0.parquet", caption=["a"])
    with pytest.raises(ValueError, match=rf"pool\.{name}: .*nowhere: found no folder, expected the pool's {name}"):
        pool_of(tmp_path, **{name: str(tmp_path / "nowhere")})
    assert open_pool(PoolSpec(source=tmp_path, embeddings=tmp_path / "nowhere"), with_vectors=False).num_rows == 1


def test_the_same_pool_elsewhere_has_the_same_digest_and_another_one_has_not(tmp_path):
    digests = []
    for number, last in enumerate(("c", "c", "d")):
        folder = tmp_path / str(number)
        write_table(folder / "0.parquet", caption=["a", "b", last])
        write_vectors(folder / "img_emb" / "0.npy", np.ones((3, 4)))
        digests.append(pool_of(folder).digest)
    assert digests[0] == digests[1] != digests[2]
    assert pool_of(tmp_path / "0", unsafe_above=0.2).digest != digests[0]


@pytest.mark.parametrize("how", ["beside", "named", "keys"])
def test_pictures_are_found_by_shard_and_key(tmp_path, how):
    """A table beside its tar; a column that names the shard; keys that begin with its number."""
    names = {"beside": ("00000", "00001"), "named": ("x", "y"), "keys": ("00000", "00001")}[how]
    wanted = {}
    for number, name in enumerate(names):
        keys = [f"{number:05d}{place:04d}" for place in range(3)]
        wanted |= write_tar(tmp_path / f"{name}.tar", {key: 40 * place + number for place, key in enumerate(keys)})
        told = {"shard": [name] * 3} if how == "named" else {}
        write_table(tmp_path / f"{name if how == 'beside' else 5 + number}.parquet", caption=keys, key=keys, **told)
    images = PoolImages(pool_of(tmp_path))
    places = images.places([5, 0, 3])
    assert [place.key for place in places] == ["000010002", "000000000", "000010000"]
    assert [images.read(place) for place in places] == [wanted[place.key] for place in places]


def test_few_bytes_cannot_unpack_to_more_than_the_memory_holds(tmp_path):
    long = "a" * (1 << 20)
    pq.write_table(pa.table({"caption": pa.array([long] * 4000).dictionary_encode()}), tmp_path / "0.parquet")
    assert (tmp_path / "0.parquet").stat().st_size < 1 << 17
    pool = pool_of(tmp_path)
    with pytest.raises(ValueError, match="found 4,000 rows of"):
        list(pool.scan(pool.parts[0], ["caption"]))


def test_a_few_rows_of_a_table_that_unpacks_to_too_much_are_taken_and_too_many_are_refused(tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 14_000, pa.int32()), pa.array(["a" * 50_000]))
    pq.write_table(pa.table({"caption": texts}), tmp_path / "0.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "0.parquet").stat().st_size < 1 << 10
    pool, before = pool_of(tmp_path), peak_bytes()
    assert captions(pool, [5]) == ["a" * 50_000]
    for ask in (
        lambda: list(pool.scan(pool.parts[0], ["caption"])),
        lambda: pool.take(range(14_000), ["caption"]),
    ):
        with pytest.raises(ValueError, match=r"^found 14,000 rows of 700,056,000 bytes, expected at most 536,870,912$"):
            ask()
    assert peak_bytes() - before < 200 << 20


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_with_code(folder, name, canary):
    """A table whose column names a type of Python and brings a pickle that makes it; earlier libraries ran that."""
    pickle = b"cposix\nsystem\n(S'touch " + bytes(canary) + b"'\ntR."
    field = pa.field(
        "caption", pa.string(), metadata={b"ARROW:extension:name": name, b"ARROW:extension:metadata": pickle}
    )
    table = pa.Table.from_arrays([pa.array(["a crane", "a die"])], schema=pa.schema([field]))
    folder.mkdir()
    pq.write_table(table, folder / "0.parquet")


@pytest.mark.parametrize("name", [b"arrow.py_extension_type", b"some.library.tensor"])
def test_g14_a_table_whose_columns_bring_code_is_read_as_plain_text(tmp_path, name):
    write_with_code(tmp_path / "pool", name, tmp_path / "canary")
    assert captions(pool_of(tmp_path / "pool"), [1, 0]) == ["a die", "a crane"]
    assert not (tmp_path / "canary").exists()


def test_g14_where_a_library_has_registered_such_a_type_its_mistake_is_one_line(tmp_path):
    """As Ray Data does with `ray.data.arrow_tensor`, whose reader asks a text for the type of its elements."""

    class Tensor(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.list_(pa.float32()), "other.library.tensor")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            return cls(storage_type.value_type)

    write_with_code(tmp_path / "pool", b"other.library.tensor", tmp_path / "canary")
    pa.register_extension_type(Tensor())
    try:
        with pytest.raises(
            ValueError, match=r"0\.parquet: found no parquet file .*; fetch or write it again"
        ) as caught:
            pool_of(tmp_path / "pool")
    finally:
        pa.unregister_extension_type("other.library.tensor")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_g14_a_list_that_was_cut_is_refused_in_one_line(tmp_path, cut):
    write_table(tmp_path / "0.parquet", **LAION)
    data = (tmp_path / "0.parquet").read_bytes()
    (tmp_path / "0.parquet").write_bytes(data[:-cut])
    with pytest.raises(ValueError, match=r"0\.parquet: found no parquet file .*; fetch or write it again") as caught:
        pool_of(tmp_path)
    assert "\n" not in str(caught.value)
