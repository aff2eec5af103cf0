"""What was submitted for an output: one receipt for each job, found again from the output alone.

In: an output (folder or URL), receipts. Out: receipts in order. On disk: `_meta/jobs/<number>.json` in the output,
created exclusively, so two who submit at once get two numbers. The job's own files (script, logs) lie in the folder of
the same name; of an output that is no folder they lie in `out/jobs/<name>-<number>` below the folder that submitted.
Nothing is written, and no place tried for writing, unless a receipt changes.
"""

import dataclasses
import functools
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from cluster.submit.call import Call
from shards.disk.address import local_root
from shards.disk.checked_json import parse_checked, to_checked
from shards.disk.store import FolderStore, ObjectStore, open_for_reading, open_store

JOBS = "_meta/jobs"
MOST = 10_000  # jobs of one output
# of `Receipt.more`
UNSURE = "unsure"  # SLURM has not answered yet, or its answer was lost: jobs of the script may be there
OVER = "over"  # how many ids the job had when it was found to be over


@dataclass(frozen=True)
class Receipt:
    """A job that was handed over, or is about to be: then it has no ids yet, and is not `UNSURE`."""

    number: int
    kind: str  # slurm, job, k8s
    command: str
    folder: str  # of script and logs, on the machine that submitted
    begun_at: str
    ids: tuple[str, ...] = ()  # what the other side calls it; several for several arrays
    where: str = ""  # the address of a job server, or a namespace of Kubernetes
    more: dict[str, str] = field(default_factory=dict)  # what one kind needs besides


class Book:
    """The receipts of one output."""

    def __init__(self, out: str, store: FolderStore | ObjectStore) -> None:
        self._out = out
        self.store = store  # for reading

    @classmethod
    def of(cls, out: str) -> "Book":
        """The book of an output, to read. Raises ValueError for an address that cannot be read."""
        root = local_root(out)
        return cls(out, open_for_reading(out) if root is None else FolderStore(root, read_only=True))

    @functools.cached_property
    def _writer(self) -> FolderStore | ObjectStore:
        """The same to write into; a folder is not probed, because nothing else is written. Raises ValueError."""
        root = local_root(self._out)
        return open_store(self._out) if root is None else FolderStore(root)

    def begin(self, call: Call, kind: str, where: str = "") -> Receipt:
        """A new receipt with the next free number, and its folder, made. Raises OSError after `MOST` jobs, ValueError
        for an output that cannot be written."""
        for number in range(max(self._numbers(), default=0) + 1, MOST):
            folder = Path(f"out/jobs/{call.name}-{number:05d}").absolute()
            if isinstance(self.store, FolderStore):
                folder = self.store.root.absolute() / JOBS / f"{number:05d}"
            if folder.exists():  # of a job that was taken back: SLURM may still know that one by its script
                continue
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            receipt = Receipt(number, kind, call.line, str(folder), now, where=where, more={"by": secrets.token_hex(8)})
            if self._writer.write_exclusive(self._name(number), _bytes(receipt)):
                folder.mkdir(parents=True, exist_ok=True)
                return receipt
        raise OSError(f"{self.store.url}/{JOBS}: found {MOST} jobs, expected fewer; remove old ones")

    def keep(self, receipt: Receipt) -> None:
        """Write the receipt over what its number has."""
        self._writer.replace(self._name(receipt.number), _bytes(receipt))

    def forget(self, receipt: Receipt) -> None:
        """Give the number back: nothing was handed over."""
        self._writer.delete(self._name(receipt.number))

    def place(self, receipt: Receipt) -> str:
        """Where the receipt is, for people."""
        return f"{self.store.url}/{self._name(receipt.number)}"

    def receipts(self) -> list[Receipt]:
        """What was handed over, or may have been, in order. Raises ValueError for a damaged receipt."""
        found = []
        for number in self._numbers():
            name = self._name(number)
            body = parse_checked(self.store.read_bytes(name), f"{self.store.url}/{name}")
            receipt = _receipt(number, body)
            if receipt is None:
                raise ValueError(
                    f"{self.store.url}/{name}: found no receipt of `sixfold submit`; remove the file if its job is over"
                )
            if receipt.ids or UNSURE in receipt.more:
                found.append(receipt)
        return found

    def _numbers(self) -> list[int]:
        names = [name.rpartition("/")[2].partition(".") for name in self.store.list(f"{JOBS}/")]
        return sorted(int(stem) for stem, _, end in names if end == "json" and stem.isdecimal() and len(stem) == 5)

    @staticmethod
    def _name(number: int) -> str:
        return f"{JOBS}/{number:05d}.json"


def _bytes(receipt: Receipt) -> bytes:
    return to_checked(dataclasses.asdict(receipt))


def _receipt(number: int, body: dict[str, object]) -> Receipt | None:
    texts = [body.get(name) for name in ("kind", "command", "folder", "begun_at", "where")]
    ids, more = body.get("ids"), body.get("more")
    if not (all(isinstance(one, str) for one in texts) and isinstance(ids, list) and isinstance(more, dict)):
        return None
    kind, command, folder, begun_at, where = map(str, texts)
    kept = {str(key): str(value) for key, value in more.items()}
    return Receipt(number, kind, command, folder, begun_at, tuple(map(str, ids)), where, kept)
