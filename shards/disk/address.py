"""Addresses: every path or URL that a person writes goes through here, so that one place has one spelling.

In: `out/sandbox`, `~/x`, `file:///data/x`, `file://localhost/data/x`, `s3://bucket/x`, `memory://x`. Out: a folder of
this machine, or the one spelling of an address. On disk: nothing is read or written.

    ~/x, ~me/x          a home folder; everywhere, not only where a shell expands it
    out/x               relative to the working folder; what ships with sixfold is also found where sixfold lies; what a
                        recipe reads is looked for beside the recipe first (`cluster.recipes.beside`)
    file:///x           the same as /x; another machine's name in it is refused
    s3://bucket//x/     the same as s3://bucket/x; `.` and `..` are refused, for no object store knows them
    s3://KEY:…@b, ?…    refused, and never shown: keys come from the environment
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import fsspec
from pydantic import BeforeValidator

from shards.disk.home import home
from shards.disk.safe_text import redact, visible

HERE = ("", "localhost")  # machines that a file:// address may name
MAX_SHOWN = 200
_ONE_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(?!/)")
_PIECES = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.S)
KEYS_FROM = "keys come from the environment or the configuration of the client, such as AWS_ACCESS_KEY_ID or ~/.aws"


def file_path(text: str | Path) -> Path:
    """The file or folder of this machine that is meant; a relative one stays relative.

    Raises ValueError for the address of another system.
    """
    place = str(text)
    if is_remote(place):
        raise ValueError(f"{shown(place)}: found an address, expected a path of this machine; give a local one")
    return _local(place)


def is_remote(text: str) -> bool:
    """Whether the text is the address of another system. Raises ValueError for one that no one may use."""
    return ("://" in text or _ONE_SLASH.match(text) is not None) and protocol_of(text) != "file"


def _plain(value: object) -> object:
    return str(file_path(value)) if isinstance(value, (str, Path)) else value


@dataclass(frozen=True)
class Beside:
    """The mark of a recipe's field that names what a run reads. `names`: values that are no paths."""

    names: frozenset[str] = frozenset()


BESIDE = Beside()
LocalPath = Annotated[Path, BeforeValidator(_plain)]  # a recipe's field that names a file or folder


def local_root(url: str) -> Path | None:
    """The folder that `url` means, absolute, whether it exists or not; None for an object store. Raises ValueError for
    a text that is no address."""
    return _local(url).absolute() if protocol_of(url) == "file" else None


def one_spelling(url: str) -> str:
    """The address by which a place is known to messages, workers and files: an absolute path, or `s3://bucket/x`.

    Raises ValueError as `local_root` does.
    """
    root = local_root(url)
    if root is not None:
        return str(root)
    protocol, rest = _pieces(url)
    return f"{protocol}://{'/'.join(part for part in rest.split('/') if part)}"


def places_of(name: str) -> list[Path]:
    """Where a folder or file that a recipe names may be: as `file_path` says, and where sixfold lies."""
    path = file_path(name)
    return [path] if path.is_absolute() else [path, home() / path]


def shown(url: str) -> str:
    """The address for people: bounded, on one line, without its secrets."""
    return visible(redact(url))[:MAX_SHOWN]


def protocol_of(url: str) -> str:
    """`file`, `s3`, `memory` … Raises ValueError for what is no address, or one that no one may store."""
    if not url or url == "-" or url.startswith("pipe:") or "::" in url or any(c in url for c in "{}*\0\n\r"):
        raise ValueError(
            f"{shown(url) or 'empty text'}: expected one folder or one address such as s3://bucket/name, no pipe, no "
            "pattern"
        )
    known = fsspec.available_protocols()
    slip = _ONE_SLASH.match(url)
    if slip and slip[1].lower() in known:
        raise ValueError(f"{shown(url)}: found one slash behind {slip[1]}:, expected two, as in s3://bucket/name")
    if not _PIECES.match(url):
        return "file"
    protocol, rest = _pieces(url)
    if protocol in ("file", "local"):
        return "file"
    if protocol not in known:
        raise ValueError(f"{shown(url)}: found the unknown system {protocol!r}, expected a folder, s3:// or memory://")
    _check_rest(url, protocol, rest)
    return protocol


def _pieces(url: str) -> tuple[str, str]:
    found = _PIECES.match(url)
    return (found[1].lower(), found[2]) if found else ("file", url)


def _local(text: str) -> Path:
    place = text
    if _PIECES.match(text):
        machine, slash, path = _pieces(text)[1].partition("/")
        if machine not in HERE:
            raise ValueError(
                f"{shown(text)}: found the machine {machine[:60]!r}, expected file:///path; give a path of this machine"
            )
        if re.search("%[0-9A-Fa-f]{2}", path):
            raise ValueError(f"{shown(text)}: found %-signs for characters; give the plain path, without file://")
        place = slash + path
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise ValueError(f"{shown(text)}: found no home folder of that user; give the whole path") from None


def _check_rest(url: str, protocol: str, rest: str) -> None:
    """Raises ValueError for parts that no object store has, and for what must not be stored or shown."""
    if re.search(r"[^/@]*:[^/]*@|%3A.*%40", rest, re.I) or (
        "@" in rest.partition("/")[0] and protocol.startswith("s3")
    ):
        raise ValueError(f"{shown(url)}: found a user or a key in the address, expected none; {KEYS_FROM}")
    if "?" in rest or "#" in rest:
        raise ValueError(f"{shown(url)}: found a query in the address, expected none; {KEYS_FROM}")
    parts = [part for part in rest.split("/") if part]
    if not parts or (rest.startswith("/") and protocol != "memory"):
        raise ValueError(f"{shown(url)}: found no bucket or machine, expected an address such as s3://bucket/name")
    if {".", ".."} & set(parts):
        raise ValueError(f"{shown(url)}: found '.' or '..' in the address; give the whole one, as in s3://bucket/name")
