"""Tars that others wrote, as a table of pictures and labels: img2dataset's folders, timm's ImageNet, webdataset's own.

In: a folder or URL with `*.tar`, whose members are `KEY.jpg` (or jpeg, png, webp) with `KEY.cls`, or `KEY.json` with
`label`, `class_id` or `target`. Out: for every tar the places, labels and keys of its pictures. On disk: nothing.

A key ends at the first dot of the file name, as in webdataset. Headers are read as USTAR, pax or GNU tar, each checked
by its checksum. A tar without its end mark, with bytes behind it, with a link or a sparse file in it, or with a picture
that has no label is refused by name and offset: what another reader drops silently would change the data set.
"""

import contextlib
import hashlib
import mmap
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from shards.disk.checked_json import plain_json
from shards.disk.data_set import no_data_set
from shards.disk.pictures import FORMATS, MAX_PICTURE_BYTES
from shards.disk.regular import open_regular
from shards.disk.safe_text import quoted, visible
from shards.disk.stand_in import stand_in
from shards.disk.store import FolderStore, Store
from shards.disk.tar import BLOCK
from shards.stream.parts import refuse_missing_parts

Int64: TypeAlias = npt.NDArray[np.int64]
Int32: TypeAlias = npt.NDArray[np.int32]
UInt64: TypeAlias = npt.NDArray[np.uint64]

PICTURES = tuple(suffix[1:] for suffix in FORMATS)  # of two pictures of one key the first of these kinds is taken
LABELS = ("label", "class_id", "target")  # keys of a .json, the first that is there counts
MAX_LABEL_BYTES = 1 << 20  # of a .cls or .json
MAX_NAME_BYTES = 1 << 16  # of a long name or a pax header
READ_BYTES = 8 << 20  # one request of a remote store
_REGULAR = b"0\0007"  # "7": contiguous, which is regular everywhere
_ID = re.compile(r"[0-9a-fA-F]{32}")
_NUMBER = re.compile(r"(?:\d+(?:[-_]of[-_]\d+)?)?\.tar$")  # train-0007.tar, train-00007-of-00128.tar
_PAX_LINE = re.compile(rb"(\d{1,7}) ([^=]{1,200})=")
_ADLER = 65521  # the modulus of adler32, whose low half is one more than the sum of the bytes


@dataclass(frozen=True, eq=False)
class ForeignTar:
    """The m pictures of one tar, in the order of their keys' first members."""

    bytes: int
    sha256: str  # "" of a local tar, which is not read as a whole
    left_out: int  # keys without a picture
    offset: Int64  # (m,)
    size: Int64
    label: Int32
    uid: UInt64  # 64 bits of the key's hash


class Member(NamedTuple):  # a frozen dataclass would take 2 us more for each sample
    """One file in a tar."""

    name: str
    offset: int  # of its bytes
    size: int
    data: bytes = b""  # of a .cls or .json


class TarBytes(Protocol):
    """An open tar."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer only at the end of the tar."""

    def sha256(self) -> str:
        """The hash of the whole tar; "" if it is not read as a whole."""


@dataclass(frozen=True)
class Foreign:
    """The tars to read, by name, each with (bytes, what changes when the file does)."""

    stamps: dict[str, tuple[int, str]]

    @property
    def tars(self) -> list[str]:
        """The names of the tars, in their order."""
        return list(self.stamps)

    @staticmethod
    def find(store: Store, begin: str | None) -> "Foreign":
        """The tars directly in the store whose names begin with `begin`.

        Raises ValueError if there is none, if one is missing of those that count themselves or, without `begin`, if
        they are of several kinds (train and validation).
        """
        stamps = {name: stamp for name, stamp in sorted(store.stamps().items()) if name.endswith(".tar")}
        kinds = sorted({_NUMBER.sub("", name) for name in stamps})
        if begin is not None:
            stamps = {name: stamp for name, stamp in stamps.items() if name.startswith(begin)}
        elif len(kinds) > 1:
            raise ValueError(
                f"{store.url}: found tars of {len(kinds)} kinds ({', '.join(visible(kind) for kind in kinds[:3])}), "
                "expected one; name the beginning of the right ones as the subset"
            )
        if not stamps and not kinds:
            raise no_data_set(store)
        if not stamps:
            raise ValueError(
                f"{store.url}: found no tar whose name begins with {quoted(begin, 60)}, expected one of "
                f"{', '.join(visible(kind) for kind in kinds[:3])}; name how the right ones begin as the subset"
            )
        refuse_missing_parts(stamps, store.url, begin or "")
        return Foreign(stamps)


def short_id(text: str) -> int:
    """64 bits of a sample id: both halves of 32 hex digits combined; ids of another form are hashed first."""
    if not _ID.fullmatch(text):
        text = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return int(text[:16], 16) ^ int(text[16:], 16)


def scan_foreign(store: Store, foreign: Foreign) -> list[ForeignTar]:
    """Every tar in turn. Raises ValueError that names tar and offset for whatever cannot be read as it was meant."""
    return [scan_tar(store, name, size) for name, (size, _) in foreign.stamps.items()]


def scan_tar(store: Store, name: str, size: int) -> ForeignTar:
    """The pictures of one tar of `size` bytes and their labels."""
    where = f"{store.url}/{name}"
    offsets, sizes, labels, uids = [], [], [], []
    left_out = 0
    with _open_tar(store, name, size) as tar:
        for key, members in _by_key(tar, where).items():
            picture = _picture(members, where)
            if picture is None:
                left_out += 1
                continue
            if not 0 < picture.size <= MAX_PICTURE_BYTES:
                raise ValueError(
                    f"{where}: offset {picture.offset}: found {quoted(picture.name, 80)} of {picture.size} "
                    f"bytes, expected 1..{MAX_PICTURE_BYTES}"
                )
            offsets.append(picture.offset)
            sizes.append(picture.size)
            labels.append(_label(members, f"{where}: key {quoted(key, 80)}"))
            uids.append(short_id(key))
        sha256, num_bytes = tar.sha256(), tar.size
    return ForeignTar(
        bytes=num_bytes,
        sha256=sha256,
        left_out=left_out,
        offset=np.array(offsets, np.int64),
        size=np.array(sizes, np.int64),
        label=np.array(labels, np.int32),
        uid=np.array(uids, np.uint64),
    )


def keys_of(store: Store, name: str, size: int) -> list[str]:
    """The keys of the pictures of one tar, in the order of `scan_tar`."""
    return list(pictures_of(store, name, size))


def pictures_of(store: Store, name: str, size: int) -> dict[str, Member]:
    """Key -> picture of one tar, in the order of `scan_tar`; its samples need no label."""
    where = f"{store.url}/{name}"
    with _open_tar(store, name, size) as tar:
        found = _by_key(tar, where)
    return {key: picture for key, members in found.items() if (picture := _picture(members, where)) is not None}


def texts_of(store: Store, name: str, size: int) -> dict[str, dict[str, bytes]]:
    """Key -> `txt` and `json`, those that are there -> bytes, of the samples of one tar that have a picture, in the
    order of `scan_tar`. Of a .txt at most `MAX_LABEL_BYTES` are read."""
    where = f"{store.url}/{name}"
    with _open_tar(store, name, size) as tar:
        return {
            key: {
                kind: tar.read(one.offset, min(one.size, MAX_LABEL_BYTES))
                for kind in ("txt", "json")
                if (one := members.get(kind)) is not None
            }
            for key, members in _by_key(tar, where).items()
            if _picture(members, where) is not None
        }


def members_of(tar: TarBytes, where: str) -> Iterator[Member]:
    """The regular files of a tar, in order. Raises ValueError for a tar that is not whole or not plain."""
    at = 0
    long_name: str | None = None
    local: dict[str, str] = {}
    for_all: dict[str, str] = {}
    while True:
        block = tar.read(at, BLOCK)
        if at == 0 and (found := stand_in(block)) is not None:
            raise ValueError(f"{where}: found {found}")
        if len(block) < BLOCK:
            raise ValueError(
                f"{where}: offset {at}: the tar ends here without its end mark, so it was cut short; "
                "fetch or write it again"
            )
        if block[0] == 0 and not any(block):
            _check_end(tar, at, where)
            return
        place = f"{where}: offset {at}"
        _check_sum(block, place)
        kind = block[156:157]
        # a pax header replaces name and size of the member behind it, a GNU "L" its name
        said = {**for_all, **local} if kind in _REGULAR and (local or for_all) else {}
        size = _pax_size(said["size"], place) if "size" in said else _number(block[124:136], place)
        size = 0 if kind == b"5" else size  # a folder's size is a note, no data follow
        data = at + BLOCK
        at = data + size + -size % BLOCK
        if data + size > tar.size:
            raise ValueError(
                f"{place}: a member of {size} bytes starts here, the tar ends at {tar.size}, so it was cut short; "
                "fetch or write it again"
            )
        if kind in b"xgL":
            if size > MAX_NAME_BYTES:
                raise ValueError(
                    f"{place}: found an extended header of {size} bytes, at most {MAX_NAME_BYTES} are read"
                )
            text = tar.read(data, size)
            if kind == b"L":
                long_name = _text(text.split(b"\0", 1)[0])
            elif kind == b"x":
                local = _pax(text, place)
            else:
                for_all |= _pax(text, place)
            continue
        if kind in _REGULAR:
            if said and any(word.startswith("GNU.sparse") for word in said):
                raise ValueError(
                    f"{place}: found a sparse file, expected plain members; write the tar without --sparse"
                )
            name = said.get("path") or (long_name if long_name is not None else _name(block))
            if not name.endswith("/"):  # so the oldest tars mark a folder
                yield Member(name, data, size)
        elif kind not in (b"5", b"K"):
            raise ValueError(
                f"{place}: found a member of type {quoted(kind.decode('latin-1'), 20)} (a link, device or sparse "
                "file), expected regular files; write the tar without them"
            )
        if kind != b"K":  # the long target of a link; its name may still follow
            long_name, local = None, {}


@dataclass
class _MappedTar:
    """A local tar; the kernel reads only the pages that are looked at."""

    map: mmap.mmap | None
    size: int

    def read(self, offset: int, size: int) -> bytes:
        return b"" if self.map is None else self.map[offset : offset + size]

    def sha256(self) -> str:
        return ""


@dataclass
class _RemoteTar:
    """A tar read front to back in large requests, hashed on the way; a step back costs a request of its own."""

    store: Store
    name: str
    size: int
    start: int = 0
    block: bytes = b""
    digest: Any = field(default_factory=hashlib.sha256)

    def read(self, offset: int, size: int) -> bytes:
        if offset < self.start:
            return self.store.read_range(self.name, offset, size)
        while offset + size > self.start + len(self.block) and self._advance(offset):
            pass
        return self.block[offset - self.start : offset - self.start + size]

    def sha256(self) -> str:
        while self._advance(self.size):
            pass
        return str(self.digest.hexdigest())

    def _advance(self, keep: int) -> bool:
        """Fetch the next stretch and drop what lies before `keep`; False at the end."""
        end = self.start + len(self.block)
        fresh = self.store.read_range(self.name, end, min(READ_BYTES, self.size - end)) if end < self.size else b""
        if not fresh:
            return False
        self.digest.update(fresh)
        dropped = min(max(keep - self.start, 0), len(self.block) + len(fresh))
        self.block = (self.block + fresh)[dropped:]
        self.start += dropped
        return True


@contextlib.contextmanager
def _open_tar(store: Store, name: str, size: int) -> Iterator[TarBytes]:
    if not isinstance(store, FolderStore):
        yield _RemoteTar(store, name, size)
        return
    with os.fdopen(open_regular(store.path(name)), "rb") as file:
        if size == 0:
            yield _MappedTar(None, 0)
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield _MappedTar(mapped, len(mapped))


def _by_key(tar: TarBytes, where: str) -> dict[str, dict[str, Member]]:
    """Key -> extension -> member. Raises ValueError if two members share both."""
    found: dict[str, dict[str, Member]] = {}
    for member in members_of(tar, where):
        folder, slash, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        extension = extension.lower()
        if not stem:
            continue  # ".DS_Store" and its like are no samples
        key = f"{folder}{slash}{stem}"
        if extension in ("cls", "json"):
            if member.size > MAX_LABEL_BYTES:
                raise ValueError(
                    f"{where}: offset {member.offset}: found a .{extension} of {member.size} bytes, at most "
                    f"{MAX_LABEL_BYTES} are read"
                )
            # read in passing: a remote tar is read front to back once
            member = Member(member.name, member.offset, member.size, tar.read(member.offset, member.size))
        if extension in found.setdefault(key, {}):
            raise ValueError(
                f"{where}: offset {member.offset}: found {quoted(member.name, 80)} a second time, expected each "
                "member once; write the tar again"
            )
        found[key][extension] = member
    return found


def _picture(members: Mapping[str, Member], where: str) -> Member | None:
    """The picture of a key. Raises ValueError if there is one only behind a second dot of the name."""
    for kind in PICTURES:
        if kind in members:
            return members[kind]
    for extension, member in members.items():
        if extension.rpartition(".")[2] in PICTURES:
            raise ValueError(
                f"{where}: offset {member.offset}: found {quoted(member.name, 80)}, whose key ends at the first "
                "dot and has no picture; write the tar with names that have one dot"
            )
    return None


def _label(members: Mapping[str, Member], where: str) -> int:
    """The class of a key. Raises ValueError if it is not said, or is no whole number that fits 32 bits."""
    value: object = None
    if "cls" in members:
        text = members["cls"].data.strip()
        value = int(text) if re.fullmatch(rb"-?\d{1,10}", text) else text[:20]
    elif "json" in members:
        try:
            body = plain_json(members["json"].data)
        except ValueError:
            body = None
        if isinstance(body, dict):
            value = next((body[word] for word in LABELS if body.get(word) is not None), None)
            if isinstance(value, str) and re.fullmatch(r"\d{1,10}", value, re.ASCII):
                value = int(value)
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(
            f"{where}: found the label {value!r:.40}, expected a class number in a .cls, or in a .json under "
            f"{', '.join(LABELS)}"
        )
    return value


def _check_end(tar: TarBytes, at: int, where: str) -> None:
    """Raises ValueError if anything but zeros follows the end mark at `at`."""
    for start in range(at, tar.size, MAX_LABEL_BYTES):
        rest = tar.read(start, MAX_LABEL_BYTES)
        if rest.count(0) != len(rest):
            raise ValueError(
                f"{where}: offset {start}: found more bytes behind the end mark, which readers would leave out; "
                "write the tars one by one, not joined"
            )


def _check_sum(block: bytes, place: str) -> None:
    """Raises ValueError unless the header's checksum is right: the sum of its bytes, its own field as blanks.

    Compared modulo 65521 through adler32, in 0.3 us instead of 3.
    """
    said = _number(block[148:156], place)
    found = (zlib.adler32(block[156:], zlib.adler32(block[:148])) & 0xFFFF) - 1 + 8 * 32
    if found % _ADLER != said % _ADLER:
        # some old writers summed the bytes as signed numbers
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
        if signed != said:
            raise ValueError(
                f"{place}: found a header whose checksum is wrong, expected a tar header; fetch or write the tar again"
            )


def _number(text: bytes, place: str) -> int:
    """Octal text or, with the top bit set, a big-endian number (GNU)."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise ValueError(f"{place}: found no number where a tar header has one; fetch or write the tar again")
    return int(digits or b"0", 8)


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _pax(data: bytes, place: str) -> dict[str, str]:
    """The words of a pax header: lines `LENGTH KEY=VALUE`, the length counting the whole line."""
    said = {}
    at = 0
    while at < len(data):
        match = _PAX_LINE.match(data, at)
        end = at + int(match.group(1)) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ValueError(f"{place}: found a damaged extended header; fetch or write the tar again")
        said[_text(match.group(2))] = _text(data[match.end() : end - 1])
        at = end
    return said


def _pax_size(text: str, place: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ValueError(f"{place}: found the size {text[:20]!r}, expected a number; fetch or write the tar again")
    return int(text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
