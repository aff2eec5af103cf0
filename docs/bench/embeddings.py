"""C8: what the cache of prompt embeddings saves, and whether what comes out of it is exactly what went in.

In: the sandbox's generator, whose text encoder has 0.5 M parameters, and different prompts. Out: CPU and wall
milliseconds per text of a hit, of encoding in chunks and of encoding each text alone; bytes kept per text; how many
embeddings are equal to the last bit. On disk: nothing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from docs.bench.measure import Line, Result, Side, Size, alternate
from gen.sampler.sampler import Sampler
from gen.sampler.spec import SamplerSpec
from shards.disk.home import home

CHUNK = 16
HIT, CHUNKED, ALONE = "sixfold, a hit", f"encoded, {CHUNK} at a time", "encoded, one at a time"


def measure(size: Size) -> Result:
    num = 2 * CHUNK if size.quick else 16 * CHUNK
    texts = [f"a photo of number {place}, ink on paper, {'soft ' * (place % 7)}light" for place in range(num)]
    spec = SamplerSpec(model=str(home() / "sandbox/models/generator"), text_batch=CHUNK, size_px=64, device="cpu")
    full, empty = Sampler.load(spec), Sampler.load(spec)  # two caches: hits are timed in one that is always full
    full.prepare(texts)
    timed = alternate(
        {HIT: _hits(full, texts), CHUNKED: _encode(empty, texts), ALONE: _encode_alone(empty, texts)}, size
    )
    first = _embeddings(full, texts)
    batches = [texts[place : place + 5] for place in range(0, num, 5)]  # cut across the chunks, the last one first
    again = np.concatenate([_remade(empty, texts, batch) for batch in reversed(batches)][::-1])
    empty.prepare([])
    alone = _embeddings(empty, texts)
    equal = {
        "asked for in another order": _equal(first, _embeddings(full, texts[::-1])[::-1]),
        "asked for in one call": _equal(first, full._embed(texts)["prompt_embeds"].numpy()),
        "made again, a batch of 5 by itself": _equal(first, again),
        "encoded alone instead of in its chunk": _equal(first, alone),
    }
    lines = [Line(name, {"CPU ms/text": one.cpu_ms, "wall ms/text": one.wall_ms}) for name, one in timed.items()]
    lines.append(Line("sixfold, kept for a text", {"KiB": (first[0].nbytes / 1024,)}))
    return Result(
        title="the cache of prompt embeddings",
        method=f"{num} different texts a repeat, the sandbox's text encoder, fp32, one torch thread; texts are asked "
        f"for one by one. A unit encodes its prompts in chunks of {CHUNK} whose order its plan fixes; a hit is what "
        "every further image of a prompt costs.",
        anchor="13 GFLOP and 118 KB (77 x 768, fp16) a text with CLIP-L; exact equality is the target",
        predicted="a hit below 0.05 ms; equal whatever is asked for from chunks; alone not always, since kernels round "
        "by shape",
        lines=lines,
        ratio_of="CPU ms/text",
        verdicts=[size.judge(f"{what}: all equal", f"{same} of {num}", same == num) for what, same in equal.items()],
        notes=[
            "Alone and in its chunk a value differs by at most "
            f"{float(np.abs(first - alone).max() / np.abs(first).max()):.1e} of the largest one."
        ],
    )


def _hits(sampler: Sampler, texts: Sequence[str]) -> Side:
    def run(folder: Path) -> int:
        for text in texts:
            sampler._embed([text])
        return len(texts)

    return run


def _encode(sampler: Sampler, texts: Sequence[str]) -> Side:
    def run(folder: Path) -> int:
        sampler.prepare(texts)
        return _hits(sampler, texts)(folder)

    return run


def _encode_alone(sampler: Sampler, texts: Sequence[str]) -> Side:
    def run(folder: Path) -> int:
        sampler.prepare([])  # a text that was never named is encoded by itself
        return _hits(sampler, texts)(folder)

    return run


def _embeddings(sampler: Sampler, texts: Sequence[str]) -> np.ndarray:
    return np.concatenate([sampler._embed([text])["prompt_embeds"].numpy() for text in texts])


def _remade(sampler: Sampler, texts: Sequence[str], batch: Sequence[str]) -> np.ndarray:
    """As `sixfold verify --regenerate` does: the unit's texts are named, one batch is asked for."""
    sampler.prepare(texts)
    embedded: np.ndarray = sampler._embed(batch)["prompt_embeds"].numpy()
    return embedded


def _equal(one: np.ndarray, other: np.ndarray) -> int:
    return sum(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))
