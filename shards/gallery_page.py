"""The gallery of a data set, with all that the packages know of it: real pictures of its classes, sources of its edits.

In: the folder or URL of a data set. Out: the path of its first page. On disk: the pages (`shards.views.gallery`).
"""

import contextlib
import shlex
from pathlib import Path

from cluster.console import bar, only_warned, say, warn
from cluster.process.stop_flag import StopFlag
from gen.edit.before import edits_of
from gen.run.real import real_pictures
from shards.disk.address import local_root, one_spelling
from shards.disk.data_set import open_data_set
from shards.disk.layout import META
from shards.disk.store import FolderStore
from shards.set.subset import named_subset
from shards.views.class_pages import REAL_PER_CLASS, RealPictures
from shards.views.gallery import write_gallery


def gallery_page(folder: str, out: Path | None = None, subset: str | None = None, stop: StopFlag | None = None) -> Path:
    """Write the gallery of a data set, by default below its `_meta`, and return its first page. Raises Draining on a
    stop request; the gallery that was there before stays."""
    store = open_data_set(folder)
    if out is None:
        if not isinstance(store, FolderStore):
            raise ValueError(f"{store.url}: a page for a store is written to a folder; give one with --out")
        out = store.path_to_write(f"{META}/gallery")
    chosen = named_subset(store, subset)
    real = edits = None
    with contextlib.ExitStack() as held:
        try:
            edits = held.enter_context(edits_of(store))
            known = real_pictures(store, REAL_PER_CLASS)
            real = None if known is None else RealPictures(*known)
        except ValueError as error:  # the set of another version; its own pictures can be shown
            warn(f"the page shows no real pictures: {error}")
        advance = held.enter_context(bar("gallery"))

        def on_shard(done: int, total: int) -> None:
            if stop is not None:
                stop.go_on()
            advance(done, total)

        return write_gallery(
            store, out, subset=chosen, subset_name=subset or "", real=real, edits=edits, progress=on_shard
        )


def gallery_of_run(folder: str, stop: StopFlag) -> None:
    """The gallery of what a run has made, and a line that says where it is; of a store, how to write one.

    A stop request leaves no time for it, also one that comes meanwhile. That, and whatever goes wrong, is one line of
    warning: the images are made, and how the run ended stands.
    """
    verb = f"sixfold show {shlex.quote(one_spelling(folder))}"
    if local_root(folder) is None:
        say(f"gallery: none on an object store; `{verb} --out FOLDER` writes one to a folder")
        return
    with only_warned("no gallery", f"`{verb}` writes it"):
        stop.go_on()
        say(f"gallery: {gallery_page(folder, stop=stop)}")
