"""The cache folder of a user on this machine, for results that all runs share: compiled kernels, batch curves,
indexes of data sets.

In: the environment. Out: a folder. On disk: ``$XDG_CACHE_HOME/sixfold/<what>`` (``~/.cache/sixfold/<what>`` if that is
not set), readable by its owner only; if that cannot be written, a private folder in the system's temporary one. All of
it may be deleted at any time.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def cache_folder(environ: Mapping[str, str], what: str, say: Callable[[str], None]) -> Path:
    """The folder for one kind of finding, made if it is not there; ``say`` hears if it is only a temporary one.

    Raises OSError if the temporary folder cannot be written either.
    """
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    folder = Path(home) / "sixfold" / what
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # a folder that is there may still be read-only
    except OSError as error:
        instead = _temporary_folder() / what
        instead.mkdir(mode=0o700, exist_ok=True)
        say(
            f"cache folder {folder}: found {error.strerror}, expected a place to write; using {instead}, which other "
            "machines do not see; set XDG_CACHE_HOME"
        )
        return instead
    return folder


def _temporary_folder() -> Path:
    """A folder that nobody else can have prepared: this user's own, or else one for this process alone."""
    folder = Path(tempfile.gettempdir()) / f"sixfold_cache-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="sixfold_cache-"))
