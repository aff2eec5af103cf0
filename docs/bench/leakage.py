"""How well copies of test images are found in a pool, and how many near-duplicates the pass by clusters finds.

    python -m docs.bench.leakage POOL TESTSET      # the sandbox's pool, which says what was planted; its real-test
    python -m docs.bench.leakage --near 100000     # made-up vectors of 512 numbers, 40 % of them near-duplicates

In: a pool whose tables have `near_test` and `duplicate_of`, and the data set those count in; or a number. Out: tables
on standard output: for descriptors and thresholds the share of planted copies that is found (recall), of others that go
(false), and of copies whose nearest test image is their own (named). On disk: nothing.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import shards
from gen.model.clip import Clip, ClipSpec
from gen.model.nearest import nearest
from retrieve.dedup.descriptor import Descriptor, clip_descriptor, picture_descriptor
from retrieve.dedup.near import CLUSTER_ROWS, PROBES, clustered_pairs, exact_pairs
from retrieve.pool.images import PoolImages
from retrieve.pool.pool import Pool, open_pool
from retrieve.pool.spec import PoolSpec
from sandbox.captions import shown_tests
from shards.disk.home import home
from shards.disk.jpeg import decode_jpeg

THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.72, 0.74, 0.76, 0.78, 0.8, 0.85, 0.9, 0.94, 0.96, 0.98, 0.99)


def planted(pool: Pool) -> np.ndarray:
    """For each row of the pool the number of the test image that it shows, or -1."""
    tables = [pq.read_table(part.path, columns=["near_test", "duplicate_of"]) for part in pool.parts]
    rows = pa.concat_tables(tables)
    return shown_tests(rows["near_test"].to_numpy(), rows["duplicate_of"].to_numpy())


def pictures(pool: Pool) -> Iterator[np.ndarray]:
    images = PoolImages(pool)
    for start in range(0, pool.num_rows, 1000):
        rows = range(start, min(start + 1000, pool.num_rows))
        yield from (decode_jpeg(images.read(place)) for place in images.places(rows))


def described(descriptor: Descriptor, images: Iterator[np.ndarray]) -> np.ndarray:
    blocks, batch = [], []
    for image in images:
        batch.append(image)
        if len(batch) == descriptor.batch:
            blocks.append(descriptor.rows_of(batch).astype(np.float16))
            batch = []
    if batch:
        blocks.append(descriptor.rows_of(batch).astype(np.float16))
    return np.concatenate(blocks)


def leakage(folder: str, test_set: str) -> None:
    pool = open_pool(PoolSpec.model_validate({"source": folder}))
    truth = planted(pool)
    is_copy = truth >= 0
    clip = Clip.load(ClipSpec(model=str(home() / "sandbox" / "models" / "clip"), batch=256))
    for name, descriptor in (("picture", picture_descriptor()), ("clip", clip_descriptor(clip))):
        began = time.monotonic()
        tests = described(descriptor, (np.asarray(sample.image) for sample in shards.open(test_set)))
        rows = described(descriptor, pictures(pool))
        took = time.monotonic() - began
        number, found = nearest(rows, tests)
        named = (number == truth)[is_copy].mean()
        print(f"{name}: {is_copy.sum()} copies, {(~is_copy).sum()} others, {len(tests)} test images, {rows.shape[1]} d")
        print(f"  {len(rows) / took:,.0f} pictures/s; named {named:.3f}; others reach {found[~is_copy].max():.3f}")
        print(f"  copies from {found[is_copy].min():.3f}, 5 % below {np.quantile(found[is_copy], 0.05):.3f}")
        for above in THRESHOLDS:
            gone = found > above
            print(f"  > {above:.2f}: recall {gone[is_copy].mean():.4f}, false {gone[~is_copy].sum():,}", flush=True)
        if name == "picture":
            compare(rows, 0.76)


def compare(rows: np.ndarray, above: float) -> None:
    """Pairs and seconds of the exact pass and of that by clusters."""
    began = time.monotonic()
    exact = pair_keys(exact_pairs(rows, above), len(rows))
    exact_s = time.monotonic() - began
    print(
        f"  near > {above}: {len(exact):,} pairs of {len(rows):,} x {rows.shape[1]}, exact in {exact_s:.1f} s",
        flush=True,
    )
    for probes in (1, 2, PROBES, 8):
        began = time.monotonic()
        found = pair_keys(clustered_pairs(rows, above, CLUSTER_ROWS, probes), len(rows))
        took = time.monotonic() - began
        share = np.isin(exact, found, assume_unique=True).mean()
        print(f"  {probes} clusters a row: {share:.4f} of them in {took:.1f} s", flush=True)


def pair_keys(pairs: Iterator[tuple[np.ndarray, np.ndarray]], num: int) -> np.ndarray:
    return np.unique(np.concatenate([first * num + second for first, second in pairs]))


def made_up(num: int, dim: int = 512) -> np.ndarray:
    """Vectors around 300 centres, of which 40 % are others again with cosines from 0.9 to 1."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(300, dim))
    rows = centres[draw.integers(300, size=num)] + 0.9 * draw.normal(size=(num, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    copies = draw.permutation(num)[: int(0.4 * num)]
    others = np.setdiff1d(np.arange(num), copies)
    noise = draw.normal(size=(len(copies), dim))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosine = draw.uniform(0.9, 1, (len(copies), 1))
    rows[copies] = cosine * rows[draw.choice(others, len(copies))] + np.sqrt(1 - cosine**2) * noise
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", nargs="?")
    parser.add_argument("test_set", nargs="?")
    parser.add_argument("--near", type=int, default=0)
    given = parser.parse_args()
    if given.near:
        compare(made_up(given.near), 0.94)
    if given.pool:
        leakage(given.pool, given.test_set)
