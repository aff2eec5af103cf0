"""One side of C11 and C12 in a process of its own: `python index_side.py SIDE FOLDER BYTES SECONDS`.

In: `vectors.npy` (float32, unit rows), `queries.npy`, `truth.npy` (their ten nearest) of a folder, which is a pool too;
bytes that a vector may take; CPU seconds that each setting is asked for. Out: one line of JSON: CPU seconds of the
build, bytes of what it saved, recall@10 and queries a CPU second for some settings. On disk: what it builds, in
FOLDER/SIDE.

All sides use one thread. This file imports our code for our own side alone, so that it runs in the environments of the
others.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np

K = 10
LINKS, EF_CONSTRUCTION = 16, 128
EFS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
ENOUGH = 0.99  # recall above which no further setting is tried
Search = Callable[[np.ndarray], np.ndarray]  # queries -> rows (Q, K)
Settings = Iterator[tuple[str, Search]]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(side: str, folder: Path, bytes_a_vector: int, least_s: float) -> None:
    vectors = np.load(folder / "vectors.npy")
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    out = folder / side
    out.mkdir(exist_ok=True)
    begun = cpu_seconds()
    saved, settings, about = SIDES[side](vectors, out, bytes_a_vector)
    facts: dict[str, Any] = {"build_s": cpu_seconds() - begun, **about}  # about may know better
    facts["bytes"] = sum(path.stat().st_size for path in saved)
    facts["points"] = points = []
    for name, search in settings:
        found = search(queries[:K])  # what is made at the first use
        start, num = cpu_seconds(), 0
        while cpu_seconds() - start < least_s:
            found = search(queries)
            num += len(queries)
        rate = num / (cpu_seconds() - start)
        hits = [len(set(row.tolist()) & set(true.tolist())) for row, true in zip(found, truth)]  # noqa: B905
        points.append({"setting": name, "recall": float(np.mean(hits)) / K, "rate": rate})
        if points[-1]["recall"] >= ENOUGH:
            break
    print(json.dumps(facts))


def _sixfold(vectors: np.ndarray, out: Path, bytes_a_vector: int) -> Any:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import retrieve.index.build as build
    from cluster.process.stop_flag import StopFlag
    from retrieve.index.index import open_index
    from retrieve.index.output import Setting
    from retrieve.index.spec import IndexSpec
    from retrieve.pool.embeddings import open_embeddings

    pool = out.parent
    spec = IndexSpec.model_validate(
        {
            "pool": {"source": str(pool)},
            "memory_gb": bytes_a_vector * len(vectors) / 1e9,
            "cluster": {"in_process": True, "attempts": 1},
        }
    )
    tuning = [0.0]
    measure = build.measure

    def timed(*arguments: Any) -> Any:
        start = cpu_seconds()
        try:
            return measure(*arguments)
        finally:
            tuning[0] += cpu_seconds() - start

    build.measure = timed
    start = cpu_seconds()
    planned = build.plan(spec, out)
    outcome = build.run(planned, StopFlag(), lambda line: None)
    whole = cpu_seconds() - start
    record = outcome.record
    assert record is not None, outcome.sentence()
    embeddings = open_embeddings(pool, "image")
    assert embeddings is not None
    index = open_index(out, "image", embeddings)
    own = record.measured.setting
    wider = [own.model_copy(update={"nprobe": max(1, own.nprobe * times // 4)}) for times in (2, 4, 6, 8, 16)]
    wider += [one.model_copy(update={"k_factor": one.k_factor * 2}) for one in wider[2:]]

    def search(setting: Setting) -> Search:
        return lambda queries: index.search(queries, K, setting=setting).rows

    settings = [(f"{one.nprobe} lists x {one.k_factor:g}", search(one)) for one in wider]
    about = {
        "kind": planned.decides.factory,
        "version": version("faiss-cpu"),
        "build_s": whole - tuning[0],
        "tuning_s": tuning[0],
    }
    return [out / one.name for one in record.files], iter(settings), about


def _autofaiss(vectors: np.ndarray, out: Path, bytes_a_vector: int) -> Any:
    import faiss
    from autofaiss import build_index

    faiss.omp_set_num_threads(1)
    path = out / "knn.index"
    index, told = build_index(
        embeddings=vectors,
        index_path=str(path),
        index_infos_path=str(out / "index_infos.json"),
        max_index_memory_usage=f"{bytes_a_vector * len(vectors)}B",
        current_memory_available="8GB",
        metric_type="ip",
        nb_cores=1,
        verbose=40,
    )
    faiss.omp_set_num_threads(1)
    kind = str((told or {}).get("index_key", ""))
    about = {"kind": f"{kind}, {(told or {}).get('index_param', '')}", "version": version("autofaiss")}

    def settings() -> Settings:
        yield "its own", lambda queries: index.search(queries, K)[1]
        space = faiss.ParameterSpace()
        if "HNSW" in kind and "IVF" not in kind:
            choices = [f"efSearch={ef}" for ef in EFS]
        else:
            choices = [f"nprobe={num},ht=2048" if "PQ" in kind else f"nprobe={num}" for num in EFS]
        for choice in choices:
            space.set_index_parameters(index, choice)
            yield choice, lambda queries: index.search(queries, K)[1]

    return [path], settings(), about


def _autofaiss_free(vectors: np.ndarray, out: Path, bytes_a_vector: int) -> Any:
    """With as much memory as its graph needs."""
    return _autofaiss(vectors, out, 8 * vectors.shape[1])


def _hnswlib(vectors: np.ndarray, out: Path, bytes_a_vector: int) -> Any:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=EF_CONSTRUCTION, M=LINKS, random_seed=1)
    index.set_num_threads(1)
    index.add_items(vectors, num_threads=1)
    index.save_index(str(out / "index"))

    def settings() -> Settings:
        for ef in EFS:
            index.set_ef(ef)
            yield f"ef {ef}", lambda queries: index.knn_query(queries, K, num_threads=1)[0]

    return [out / "index"], settings(), {"kind": f"HNSW{LINKS}, float32", "version": version("hnswlib")}


def _usearch(vectors: np.ndarray, out: Path, bytes_a_vector: int, dtype: str = "f32") -> Any:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype=dtype, connectivity=LINKS, expansion_add=EF_CONSTRUCTION)
    index.add(np.arange(len(vectors)), vectors, threads=1)
    index.save(str(out / "index"))

    def settings() -> Settings:
        for ef in EFS:
            index.expansion_search = ef
            yield f"ef {ef}", lambda queries: np.asarray(index.search(queries, K, threads=1).keys)

    return [out / "index"], settings(), {"kind": f"HNSW{LINKS}, {dtype}", "version": version("usearch")}


def _usearch16(vectors: np.ndarray, out: Path, bytes_a_vector: int) -> Any:
    return _usearch(vectors, out, bytes_a_vector, "f16")


def _voyager(vectors: np.ndarray, out: Path, bytes_a_vector: int) -> Any:
    import voyager

    index = voyager.Index(
        voyager.Space.InnerProduct, vectors.shape[1], M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=1
    )
    index.add_items(vectors, num_threads=1)
    index.save(str(out / "index"))

    def settings() -> Settings:
        for ef in EFS:
            yield f"ef {ef}", lambda queries, ef=ef: index.query(queries, K, num_threads=1, query_ef=ef)[0]  # type: ignore[misc]

    return [out / "index"], settings(), {"kind": f"HNSW{LINKS}, float32", "version": version("voyager")}


SIDES: dict[str, Callable[[np.ndarray, Path, int], Any]] = {
    "sixfold": _sixfold,
    "autofaiss": _autofaiss,
    "autofaiss-free": _autofaiss_free,
    "hnswlib": _hnswlib,
    "usearch": _usearch,
    "usearch16": _usearch16,
    "voyager": _voyager,
}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
