"""Data sets: files, tars and tables, class lists, streaming, pages. Knows no prompt, no model and no cluster.

In a notebook: `import shards; data = shards.open("out/sandbox")`; see `shards.views.samples`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from shards.views.samples import DataSet


def open(url: "str | PathLike[str]", subset: str | None = None) -> "DataSet":
    """The data set in a folder or at a URL, of all samples or of a subset such as "6x".

    Raises ValueError, in one line, for what is no data set of ours.
    """
    from shards.views.samples import DataSet  # not needed by those who import a part of this package

    return DataSet(url, subset)
