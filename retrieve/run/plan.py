"""What a pool of some size costs before there is one: disk, memory and hours of both routes, with the arithmetic.

In: a `PoolSize`. Out: lines for people. On disk: nothing.

Rates are what docs/BENCHMARKS.md measured on one core of a server, rows C9 and C10; those of GPUs are computed. Your
machine has others: `sixfold embed` and `sixfold retrieve` say theirs as they work.
"""

from dataclasses import dataclass

from retrieve.index.choice import choose, parse_factory
from shards.disk.amounts import counted, size_text, time_text

TABLE_BYTES = 130  # of a row of LAION-2B-en: address, caption, sizes, scores
CAPTIONS_PER_S = 0.6e6  # as phrases, a core (C9)
SCAN_FLOP_PER_S = 70e9  # a core (C10)
GPU_FLOP_PER_S = 400e12  # half of what an H200 reaches in plain bf16 products
PICTURE_FLOP = 162e9  # ViT-L/14, 224 px: 81 G multiplications and additions
DISK_BYTES_PER_S = 1e9


@dataclass(frozen=True)
class PoolSize:
    """A pool, what it is asked, and the machine. `queries` are classes times templates."""

    rows: int
    dim: int
    queries: int
    cores: int
    gpus: int
    memory_bytes: float

    def describe(self) -> str:
        """Raises ValueError for sizes that nothing has."""
        for name in ("rows", "dim", "queries", "cores"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if self.gpus < 0:
            raise ValueError(f"gpus: found {self.gpus}, expected 0 or more")
        return "\n".join(f"{name:<10}{text}" for name, text in self._lines())

    @property
    def _vector_bytes(self) -> int:
        return 2 * self.dim * self.rows

    @property
    def _scan_flop(self) -> float:
        return 2.0 * self.dim * self.rows * self.queries

    def _lines(self) -> list[tuple[str, str]]:
        rows, cores, gpus = f"{self.rows:,}", counted(self.cores, "core"), counted(self.gpus, "GPU")
        captions_s = self.rows / CAPTIONS_PER_S
        scan_s, disk_s = self._scan_flop / SCAN_FLOP_PER_S, self._vector_bytes / DISK_BYTES_PER_S
        index = choose(self.rows, self.dim, self.memory_bytes)
        build_s = parse_factory(index.factory, self.dim).core_seconds(self.rows, self.dim)
        index_bytes = index.bytes_per_vector * self.rows
        found = [
            ("pool", f"{rows} rows, {counted(self.queries, 'query').replace('querys', 'queries')}; {cores}, {gpus}"),
            ("tables", f"{size_text(TABLE_BYTES * self.rows)}: {rows} x {TABLE_BYTES} bytes, as LAION-2B-en's"),
            (
                "captions",
                f"{time_text(captions_s)} of a core: {rows} / {CAPTIONS_PER_S:,.0f} a second; "
                f"{time_text(captions_s / self.cores)} on {cores}, for any number of classes",
            ),
            (
                "vectors",
                f"{size_text(self._vector_bytes)} of pictures, as much of captions: {rows} x {self.dim} x 2 bytes",
            ),
        ]
        if self.gpus:
            embed_s = self.rows * PICTURE_FLOP / GPU_FLOP_PER_S
            found.append(
                (
                    "embed",
                    f"{time_text(embed_s)} of a GPU: {rows} pictures x {PICTURE_FLOP / 1e9:.0f} GFLOP (ViT-L/14) / "
                    f"{GPU_FLOP_PER_S / 1e12:.0f} TFLOP/s; {time_text(embed_s / self.gpus)} on {gpus}. Computed",
                )
            )
        scan_wall_s = scan_s / self.cores
        found.append(
            (
                "scan",
                f"{time_text(scan_s)} of a core: {self._scan_flop:.1e} FLOP / {SCAN_FLOP_PER_S / 1e9:.0f} GFLOP/s; "
                f"{time_text(scan_wall_s)} on {cores}; memory for a block, recall 1",
            )
        )
        if self.gpus:
            gpu_s = self._scan_flop / GPU_FLOP_PER_S / self.gpus
            scan_wall_s = min(scan_wall_s, max(gpu_s, disk_s))
            products = f"{time_text(gpu_s)} of products, computed, and {time_text(disk_s)} to read the vectors"
            reading = f"at {size_text(DISK_BYTES_PER_S)} a second"
            found.append(("", f"{time_text(max(gpu_s, disk_s))} on {gpus}: {products} {reading}"))
        found += [
            (
                "index",
                f"{index.factory}: {size_text(index_bytes)}, {index.bytes_per_vector:,.0f} bytes a vector; about "
                f"{time_text(build_s)} of a core to build, {time_text(build_s / self.cores)} on {cores}",
            ),
            ("", index.why),
            ("so", _advice(index.fits, scan_wall_s, build_s / self.cores)),
        ]
        return found


def _advice(fits: bool, scan_s: float, build_s: float) -> str:
    if not fits:
        return "the exact scan: no index fits into the memory"
    if scan_s <= build_s:
        return f"the exact scan: it is done ({time_text(scan_s)}) before an index is built ({time_text(build_s)})"
    done = f"it is built ({time_text(build_s)}) before a scan ends ({time_text(scan_s)})"
    return f"an index if recall below 1 will do: {done}"
