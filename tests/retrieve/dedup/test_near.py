"""Near-duplicates in a set: every pair by blocks, most by clusters, groups as connected components."""

import networkx
import numpy as np
import pytest

from retrieve.dedup.near import clustered_pairs, exact_pairs, groups_of, near_groups


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def with_copies(num, dim, seed):
    """Random rows around 20 centres; two in five are another one again, with a cosine of 0.9 to 1."""
    draw = np.random.default_rng(seed)
    rows = unit(draw.normal(size=(20, dim))[draw.integers(20, size=num)] + 0.8 * draw.normal(size=(num, dim)))
    copies = draw.permutation(num)[: num * 2 // 5]
    noise = unit(draw.normal(size=(len(copies), dim)))
    cosine = draw.uniform(0.9, 1, (len(copies), 1)).astype(np.float32)
    rows[copies] = unit(cosine * rows[draw.integers(num, size=len(copies))] + np.sqrt(1 - cosine**2) * noise)
    return rows


def keys(pairs):
    return {(int(one), int(two)) for first, second in pairs for one, two in zip(first, second, strict=True)}


@pytest.mark.parametrize("block", [1, 9, 64, 500])
def test_every_pair_above_the_threshold_comes_once_whatever_the_blocks(block):
    rows = with_copies(120, 12, seed=3)
    one, two = np.nonzero(np.triu(rows @ rows.T, 1) > 0.94)
    found = [
        pair for pairs in exact_pairs(rows, 0.94, block) for pair in zip(*map(np.ndarray.tolist, pairs), strict=True)
    ]
    assert len(one) > 20
    assert sorted(found) == sorted(zip(one.tolist(), two.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_connected_components_named_by_their_first_row(seed):
    draw = np.random.default_rng(seed)
    print(f"seed {seed}")
    edges = draw.integers(0, 200, (2, 130))
    graph = networkx.Graph()
    graph.add_nodes_from(range(200))
    graph.add_edges_from(edges.T.tolist())
    expected = {row: min(part) for part in networkx.connected_components(graph) for row in part}
    pieces = iter([(edges[0, :50], edges[1, :50]), (edges[0, 50:], edges[1, 50:])])
    assert groups_of(200, pieces).tolist() == [expected[row] for row in range(200)]


def test_a_long_chain_is_one_group():
    order = np.random.default_rng(0).permutation(3000)
    assert set(groups_of(3000, iter([(order[:-1], order[1:])])).tolist()) == {0}


def test_clusters_find_nearly_all_pairs_and_no_other():
    rows = with_copies(3000, 64, seed=5)
    exact = keys(exact_pairs(rows, 0.94))
    found = keys(clustered_pairs(rows, 0.94, cluster_rows=150))
    assert len(exact) > 300
    assert found <= exact
    assert len(found) >= 0.98 * len(exact)


def test_above_a_number_of_rows_the_groups_come_from_clusters_the_same_ones_each_time():
    rows = with_copies(1500, 64, seed=6)
    by_cluster = near_groups(rows, 0.94, exact_rows=100)
    assert np.array_equal(by_cluster, near_groups(rows, 0.94, exact_rows=100))
    assert (by_cluster == near_groups(rows, 0.94)).mean() > 0.98


def test_rows_of_zeros_are_in_no_group():
    rows = np.zeros((300, 8), np.float16)
    rows[:2, 0] = 1
    for exact_rows in (0, 1000):
        assert near_groups(rows, 0.5, exact_rows).tolist() == [0, 0, *range(2, 300)]
        assert near_groups(rows[2:], 0.5, exact_rows).tolist() == list(range(298))


def test_a_set_without_rows_has_no_groups():
    assert near_groups(np.empty((0, 4), np.float16), 0.9).tolist() == []
