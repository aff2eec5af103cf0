"""What of a data set goes to the Hugging Face hub: its shards, their records, its card, what says who made it.

In: a data set in a folder. Out: the files to push, as `shards.views.hub` sends them. On disk: only reads.

Pushed: tar, table and record of every shard that has a record; `_meta/run.json` and the files whose hashes it holds;
subsets; a README.md with the card, which names classes, licences and models. So a copy is a data set that `verify`
checks. Not pushed: everything else, such as logs, leases, pages, the quarantine, and what is no file of the set.
"""

from shards.disk.layout import CARD, META, RUN, record_name, shard_of, table_name, tar_name
from shards.disk.store import FolderStore, Store
from shards.set.manifest import scan_records, subset_files
from shards.set.origin import read_origin
from shards.set.status import refuse_missing
from shards.views.census import take_census
from shards.views.dataset_card import dataset_card
from shards.views.export import UnknownLicence
from shards.views.hub import HubFile, listed_file, text_file
from shards.views.licence import HOW_TO_NAME


def is_of_a_set(name: str) -> bool:
    """Whether a file of this name in a repository of data can only come from a push of a data set."""
    return shard_of(name) is not None or name.startswith(f"{META}/")


def data_set_files(store: Store, title: str, unlicensed: UnknownLicence = "refuse") -> list[HubFile]:
    """All files of the set, its card last.

    Raises ValueError for a set in an object store, one that is not finished or whose `run.json` is damaged, and for
    samples without a licence to pass them on, unless `unlicensed` is "keep".
    """
    if not isinstance(store, FolderStore):
        raise ValueError(f"{store.url}: found a data set in an object store, expected one in a folder; copy it first")
    refuse_missing(store, "push")
    records = scan_records(store)
    census = take_census(store, records)
    if census.unlicensed and unlicensed != "keep":
        raise ValueError(
            f"{store.url}: found {census.unlicensed:,} of {census.successes:,} samples without a licence to pass them "
            "on, expected one for each; push with `--unlicensed keep` for your own use, or leave them out with "
            f"`sixfold export --to huggingface --unlicensed leave_out`; {HOW_TO_NAME}"
        )
    root = store.root
    files = []
    for shard, record in sorted(records.items()):
        files += [
            listed_file(root, tar_name(shard), record.tar.sha256),
            listed_file(root, table_name(shard), record.parquet.sha256),
            listed_file(root, record_name(shard)),
        ]
    origin = read_origin(store)
    if origin is not None:
        files += [listed_file(root, name) for name in (RUN, *(f"{META}/{name}" for name in sorted(origin.files)))]
    files += [listed_file(root, name) for name in subset_files(store)[0]]
    marks = sorted({record.fingerprint for record in records.values()})
    return [*files, text_file(CARD, dataset_card(census, title, marks, 0, census.unlicensed))]
