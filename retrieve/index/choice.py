"""Which index is built: FAISS' own word for it (a factory string), why this one, and what it weighs.

In: how many vectors, of how many numbers, how much memory, for what. Out: a `Choice`. On disk: nothing. Pure.

    Flat                            the vectors themselves, all compared: exact
    HNSW16                          the vectors and a graph over them: the fastest to ask, the slowest to build
    IVF1024,RaBitQfs,Refine(SQ8)    lists; a bit a number finds, a byte a number decides: the usual one
    IVF1024,SQ8                     lists; a byte a number
    IVF1024,RaBitQfs                lists; a bit a number, and the pool's own vectors decide
    OPQ64_768,IVF65536_HNSW32,PQ64  lists; few bytes a vector, and the pool's own vectors decide: for billions

A vector without direction (zeros stand for what is flagged or cannot be decoded) is in no index; `IDMap2`, which goes
before Flat and HNSW, keeps the numbers of the rows all the same.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from shards.disk.amounts import size_text

Purpose = Literal["auto", "exact", "speed"]

FEW = 10_000  # vectors that are compared faster than anything is built
MOST_FOR_GRAPH = 2_000_000  # a graph of more takes hours to build
LEAST_PER_LIST = 39  # vectors that FAISS wants to learn a list from
LEAST_TRAINED = 10_000
PER_LIST = 48  # that it is given: learning lists is most of a build
FEWEST_LISTS, MOST_LISTS = 16, 1 << 20
LISTS_BY_GRAPH = 1 << 14  # from so many lists on, the right ones are found by a graph
GRAPH_OF_LISTS = 32  # its links
CODE_BYTES = (256, 128, 64, 32, 16)  # of a vector, largest first
ROW_BYTES = 8  # the number of a row
BLOCK = 32  # vectors that fast scans keep together; the last block of a list is half empty on average
FLOP_PER_S = 30e9  # of one core, in FAISS' own products; for estimates
PER_GRAPH = 400  # comparisons of one vector with those that a graph over lists names
GRAPH_S = 6e-7  # of one core, for a number of a vector that takes its place in a graph of 16 links over 100,000
CODE_S = 2.5  # for each byte of a code that is learned
ROUNDS = 10  # of learning lists

_IVF = re.compile(
    r"(?:OPQ(?P<opq>[1-9]\d{0,3})(?:_(?P<width>[1-9]\d{0,4}))?,)?"
    r"IVF(?P<lists>[1-9]\d{0,7})(?:_HNSW(?P<coarse>[1-9]\d{0,2}))?,"
    r"(?P<codes>Flat|SQ8|SQfp16|RaBitQfs|RaBitQ|PQ(?P<pq>[1-9]\d{0,3})(?:x(?P<bits>4|8)(?P<fast>fs)?)?)"
    r"(?:,Refine\((?P<refine>SQ8|SQfp16|Flat)\))?"
)
_PLAIN = re.compile(r"(?:IDMap2,)?(?:(?P<flat>Flat)|HNSW(?P<links>[1-9]\d{0,2}))")


@dataclass(frozen=True)
class Kind:
    """A factory string, taken apart."""

    factory: str  # as FAISS takes it, IDMap2 included
    lists: int = 0  # 0: no lists
    links: int = 0  # of a graph over all vectors; 0: none
    coarse: int = 0  # links of a graph over the lists; 0: none
    codes: str = ""  # of the vectors in the lists
    code_bytes: float = 0.0  # of a vector there
    refine: str = ""  # what decides among those that the codes find
    words: int = 0  # of each piece of a product quantiser
    rotated: int = 0  # numbers of a rotated vector; 0: not rotated

    @property
    def can_merge(self) -> bool:
        """Whether FAISS can make one index of parts."""
        return not self.links

    @property
    def least_rows(self) -> int:
        """Vectors that it cannot be learned without."""
        return max(self.lists, self.words)

    @property
    def train_rows(self) -> int:
        """Vectors that it is learned from; the range of a byte a number is learned too, and needs some."""
        return max(PER_LIST * self.least_rows, LEAST_TRAINED) if self.lists else 0

    @property
    def is_coarse(self) -> bool:
        """Whether its own scores are too rough to rank by, so that more is fetched than asked for."""
        return self.codes.startswith(("RaBitQ", "PQ")) and not self.refine

    def bytes_per_vector(self, num: int, dim: int) -> float:
        """Of the file, with what all vectors share (centres of lists, rotation)."""
        if self.links:
            return ROW_BYTES + 4 * dim + 4 * (2 * self.links + self.links / (self.links - 1)) + 12
        if not self.lists:
            return ROW_BYTES + 4 * dim
        width = self.rotated or dim
        a_list: float = 4 * width + (8 * self.coarse + 16 if self.coarse else 0) + 8
        if self.codes.endswith("fs"):
            a_list += self.code_bytes * BLOCK / 2
        shared = self.lists * a_list + 4 * dim * self.rotated + 4 * width * self.words
        return ROW_BYTES + self.code_bytes + _refine_bytes(self.refine, dim) + shared / max(1, num)

    def core_seconds(self, num: int, dim: int) -> float:
        """A rough estimate of the time to build it on one core."""
        if self.links:
            return num * dim * GRAPH_S * self.links / 16 * math.log2(max(2, num)) / math.log2(100_000)
        if not self.lists:
            return num * dim / FLOP_PER_S
        learn = 2 * ROUNDS * min(num, self.train_rows) * self.lists * dim
        per_row = (PER_GRAPH if self.coarse else self.lists) + self.rotated
        codes = CODE_S * self.code_bytes if self.codes.startswith("PQ") and not self.codes.endswith("fs") else 0.0
        return codes + (learn + 2 * num * per_row * dim) / FLOP_PER_S


@dataclass(frozen=True)
class Choice:
    """What is built, what it weighs, and why."""

    factory: str
    why: str  # a sentence
    bytes_per_vector: float
    fits: bool  # into the memory that there is


def choose(num: int, dim: int, memory_bytes: float, purpose: Purpose = "auto") -> Choice:
    """The index of `num` vectors of `dim` numbers that is best for a purpose within a memory. If none fits, the
    smallest one, and `why` says what it needs. Raises ValueError for sizes that no pool has."""
    if num < 1 or dim < 1:
        raise ValueError(f"index: found {num:,} vectors of {dim:,} numbers, expected at least one of each")
    total = f"{num:,} vectors of {dim} numbers"
    budget = f"within {size_text(memory_bytes)}"

    def chosen(factory: str, why: str) -> Choice | None:
        weight = parse_factory(factory, dim).bytes_per_vector(num, dim)
        return Choice(factory, why, weight, True) if weight * num <= memory_bytes else None

    exact = "Exact results were asked for"
    if num <= FEW:
        exact = f"So few vectors ({num:,}) are compared faster than an index is asked"
    if (num <= FEW or purpose == "exact") and (flat := chosen("IDMap2,Flat", f"{exact}, and all fit {budget}.")):
        return flat
    if purpose == "exact":
        weight = parse_factory("IDMap2,Flat", dim).bytes_per_vector(num, dim)
        why = f"None fits: exact results for {total} need {size_text(weight * num)}, not {size_text(memory_bytes)}; "
        return Choice("IDMap2,Flat", why + "the exact scan needs no memory.", weight, False)
    if purpose == "speed" and num <= MOST_FOR_GRAPH:
        graph = chosen("IDMap2,HNSW16", f"A graph answers fastest, and with {total} it fits {budget}.")
        if graph:
            return graph
    lists = f"IVF{lists_of(num)}" + (f"_HNSW{GRAPH_OF_LISTS}" if lists_of(num) >= LISTS_BY_GRAPH else "")
    tried = [
        (f"{lists},RaBitQfs,Refine(SQ8)", "one bit a number finds and one byte a number decides"),
        (f"{lists},SQ8", "one byte a number is the best that fits"),
        (f"{lists},RaBitQfs", "one bit a number is the best that fits; the pool's own vectors decide"),
        *((_product(lists, num_bytes, dim), f"{num_bytes} bytes a vector are what fits") for num_bytes in CODE_BYTES),
    ]
    for factory, why in tried:
        if factory and (found := chosen(factory, f"Of {total} {budget}: {why}.")):
            return found
    smallest = min((one for one, _ in tried if one), key=lambda one: parse_factory(one, dim).bytes_per_vector(num, dim))
    weight = parse_factory(smallest, dim).bytes_per_vector(num, dim)
    why = f"None fits: the smallest index of {total} needs {size_text(weight * num)}, not {size_text(memory_bytes)}."
    return Choice(smallest, why, weight, False)


def lists_of(num: int) -> int:
    """About twice the root of the number of vectors, as a power of two; never more than can be learned."""
    wished = 2 ** round(math.log2(2 * math.sqrt(num)))
    can = 2 ** math.floor(math.log2(max(1, num // LEAST_PER_LIST)))
    return max(1, min(max(FEWEST_LISTS, wished), MOST_LISTS, can))


def parse_factory(text: str, dim: int) -> Kind:
    """Raises ValueError in one line for what is none of the kinds above, or does not go with this width."""
    if plain := _PLAIN.fullmatch(text):
        factory = text if text.startswith("IDMap2,") else f"IDMap2,{text}"
        links = int(plain["links"] or 0)
        if links == 1:
            raise ValueError(f"factory {text}: found a graph of 1 link, expected at least 2; HNSW16 is usual")
        return Kind(factory, links=links)
    found = _IVF.fullmatch(text)
    if found is None:
        raise ValueError(
            f"factory: found {text[:80]!r}, expected Flat, HNSW16, or lists such as IVF1024,SQ8 and "
            "OPQ64_512,IVF65536_HNSW32,PQ64 with codes Flat, SQ8, SQfp16, RaBitQ, RaBitQfs or PQ"
        )
    width = int(found["width"] or dim) if found["opq"] else dim
    if found["opq"] and (width > dim or width % int(found["opq"])):
        raise ValueError(
            f"factory {text}: found a rotation to {width} numbers in {found['opq']} pieces, expected at most {dim} "
            "numbers, a multiple of the pieces"
        )
    if found["pq"] and width % int(found["pq"]):
        raise ValueError(
            f"factory {text}: found {found['pq']} pieces of {width} numbers, expected pieces of one size; "
            "put an OPQ before it, or choose a divisor"
        )
    return Kind(
        text,
        lists=int(found["lists"]),
        coarse=int(found["coarse"] or 0),
        codes=found["codes"],
        code_bytes=_code_bytes(found, width),
        refine=found["refine"] or "",
        words=2 ** int(found["bits"] or 8) if found["pq"] else 0,
        rotated=width if found["opq"] else 0,
    )


def _product(lists: str, num_bytes: int, dim: int) -> str:
    """Product quantisation with so many bytes a vector; "" if vectors are too short for it."""
    return f"OPQ{num_bytes}_{dim // num_bytes * num_bytes},{lists},PQ{num_bytes}" if num_bytes <= dim else ""


def _code_bytes(found: "re.Match[str]", width: int) -> float:
    codes = found["codes"]
    if found["pq"]:
        return math.ceil(int(found["pq"]) * int(found["bits"] or 8) / 8)
    if codes.startswith("RaBitQ"):
        return math.ceil(width / 8) + 8
    return width * {"Flat": 4, "SQ8": 1, "SQfp16": 2}[codes]


def _refine_bytes(refine: str, dim: int) -> int:
    return dim * {"": 0, "SQ8": 1, "SQfp16": 2, "Flat": 4}[refine]
