"""Puts listed files on the Hugging Face hub, in commits of bounded size; nothing that is not listed.

In: files, the name of a repository, a token. Out: a `Pushed`. On disk: only reads.

Before each call what is there already is asked for and compared by hash, so the same command goes on where another one
ended, and does nothing when all is there. Calls that fail for a passing reason are tried again a few times. Where the
hub counts too many (it takes 128 commits an hour), they wait as long as it says, or longer and longer. A deadline ends
all of it. At the end every file is asked for once more and must have the bytes that were listed.

Files there that an earlier push of the same kind left, and that are not listed now, would be read along with the new
ones: they are refused before anything is sent, or removed first where the caller says so. Files of other kinds stay.

The token comes from the environment only, and is never shown. A repository is made private, and one that is public
already is refused, unless the caller says otherwise.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from shards.disk.amounts import counted, size_text, time_text
from shards.disk.layout import checked_name
from shards.disk.regular import read_regular, sha256_of
from shards.disk.safe_text import one_line, quoted, redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
RepoKind: TypeAlias = Literal["dataset", "model"]

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Of a commit. The hub recommends 50 to 100 files, because it checks each within one request of 60 s, and no number of
# bytes. A terabyte in shards of 100 MB is 300 commits, which it takes in 2.5 hours; large files that came before a kill
# are not sent again.
FILES_AT_ONCE = 100
BYTES_AT_ONCE = 20 << 30
REMOVED_AT_ONCE = 1000
ASKED_AT_ONCE = 200  # files in one question about what is there
TRIES = 3  # the client itself tries each request five times
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 600.0  # where the hub does not say how long
STALL_S = 300.0  # longest silence of the hub within a request
TOO_MANY = 429
_PASSING = frozenset({408, 409, 412, 500, 502, 503, 504})


@dataclass(frozen=True)
class HubFile:
    """A file to put there."""

    name: str  # in the repository
    source: Path | bytes
    size: int
    sha256: str


@dataclass(frozen=True)
class Pushed:
    """What a push did; every file is there."""

    address: str
    num_files: int
    num_sent: int
    bytes_sent: int
    num_removed: int = 0  # files of an earlier push


def text_file(name: str, text: str) -> HubFile:
    """A file that exists on the hub only."""
    data = text.encode()
    return HubFile(name, data, len(data), hashlib.sha256(data).hexdigest())


def listed_file(root: Path, name: str, sha256: str | None = None) -> HubFile:
    """A file below `root` under the same name; `sha256` as its record says, else it is computed here.

    Raises ValueError for a link, also among its folders: it may lead out of what is to be pushed.
    """
    path = root / checked_name(name)
    for part in (path, *path.parents):
        if part == root:
            break
        if part.is_symlink():
            raise ValueError(f"{part}: found a link, expected a file of its own; push the place that it leads to")
    size = path.stat().st_size
    return HubFile(name, path, size, sha256 or sha256_of(path))


def token_of(environ: Mapping[str, str]) -> str:
    """The token in the environment. Raises ValueError without one."""
    found = next((environ[name] for name in TOKENS if environ.get(name)), None)
    if found is None:
        raise ValueError(
            f"{TOKENS[0]}: found none in the environment, expected a token that may write; set it and push again"
        )
    return found


def check_repo_id(repo_id: str) -> None:
    """Raises ValueError for what is no `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{quoted(repo_id, 100)}: {one_line(str(error), 200)}") from None
    if repo_id.count("/") != 1:
        raise ValueError(f"{quoted(repo_id, 100)}: found no owner, expected owner/name, as on the hub")


def push(
    repo_id: str,
    kind: RepoKind,
    files: Sequence[HubFile],
    token: str,
    *,
    public: bool = False,
    is_ours: Callable[[str], bool] = lambda name: False,
    remove_old: bool = False,
    endpoint: str | None = None,
    deadline_s: float = 86_400.0,
    say: Callable[[str], None] = lambda line: None,
    pause_s: float = FIRST_PAUSE_S,
) -> Pushed:
    """Send what is not there yet. `is_ours`: whether a file of this name can only come from a push of this kind; such
    ones that are not in `files` are removed if `remove_old`. Raises ValueError for them otherwise, and for what the hub
    refuses or has otherwise at the end, TimeoutError at the deadline; the same call then goes on."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars

    check_repo_id(repo_id)
    disable_progress_bars()
    api = HfApi(endpoint=endpoint, token=token, library_name="sixfold")
    caller = _Caller(repo_id, token, time.monotonic() + deadline_s, pause_s, say)
    caller.call(lambda: api.create_repo(repo_id, repo_type=kind, private=not public, exist_ok=True))
    about = caller.call(lambda: api.repo_info(repo_id, repo_type=kind))
    if not public and about.private is False:
        raise ValueError(
            f"{repo_id}: found a public repository, expected a private one; push with --public if all may see it, or "
            "take another name"
        )
    listed = {one.name for one in files}
    there = caller.call(lambda: list(api.list_repo_files(repo_id, repo_type=kind)))
    old = sorted(name for name in there if is_ours(name) and name not in listed)
    if old and not remove_old:
        raise ValueError(
            f"{repo_id}: found {counted(len(old), 'file')} of another push, the first {quoted(old[0], 80)}, expected "
            "none; push with --remove-old to remove them first, or take another name"
        )
    for start in range(0, len(old), REMOVED_AT_ONCE):
        gone = [CommitOperationDelete(path_in_repo=name) for name in old[start : start + REMOVED_AT_ONCE]]
        what = f"Remove {gone[0].path_in_repo}" + (f" and {len(gone) - 1} more" if len(gone) > 1 else "")

        def remove(gone: Sequence[CommitOperationDelete] = gone, what: str = what) -> object:
            return api.create_commit(repo_id, gone, commit_message=what, repo_type=kind)

        caller.call(remove)
        say(f"{what} of another push")
    missing = _missing(caller, api, repo_id, kind, files)
    say(f"{counted(len(files) - len(missing), 'file')} of {len(files):,} there already")
    sent = sent_bytes = 0
    total = sum(one.size for one in missing)
    for chunk in in_commits(missing):
        what = f"Add {chunk[0].name}" + (f" and {len(chunk) - 1} more" if len(chunk) > 1 else "")

        def commit(chunk: Sequence[HubFile] = chunk, what: str = what) -> object:
            added = [CommitOperationAdd(path_in_repo=one.name, path_or_fileobj=one.source) for one in chunk]
            return api.create_commit(repo_id, added, commit_message=what, repo_type=kind)

        caller.call(commit)
        sent += len(chunk)
        sent_bytes += sum(one.size for one in chunk)
        say(f"{sent:,} of {counted(len(missing), 'file')}, {size_text(sent_bytes)} of {size_text(total)}")
    left = _missing(caller, api, repo_id, kind, files)
    if left:
        raise ValueError(
            f"{repo_id}: found {counted(len(left), 'file')} with other bytes than here after all was sent, the first "
            f"{quoted(left[0].name, 80)}, expected none; run `sixfold verify` here, then push again"
        )
    address = f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    return Pushed(address, len(files), sent, sent_bytes, len(old))


@dataclass(frozen=True)
class _Caller:
    """Calls of the client library, each in a thread that the deadline can leave behind."""

    repo_id: str
    token: str
    end: float
    pause_s: float
    say: Callable[[str], None]

    def call(self, ask: Callable[[], T]) -> T:
        """What `ask` returns; tried again where that may help, and until the deadline where the hub counts too many."""
        tries = waits = 0
        while True:
            try:
                return self._once(ask)
            except TimeoutError:
                raise
            except Exception as error:  # the client's own classes, and those of its libraries
                status = _status(error)
                if status == TOO_MANY:
                    asked = _asked_pause(error)
                    pause = min(self.pause_s * 4.0 ** min(waits, 9), LONGEST_PAUSE_S) if asked is None else asked
                    waits += 1
                else:
                    tries += 1
                    is_passing = status is None or status in _PASSING
                    if tries == TRIES or not is_passing or isinstance(error, ValueError):
                        raise self._in_words(error, status) from None
                    pause = self.pause_s * 4.0 ** (tries - 1)
                if pause > self.end - time.monotonic():
                    when = f"and the hub is to be asked in {time_text(pause)} again, which is behind the deadline"
                    raise self._too_late(when) from None
                self.say(f"{self.repo_id}: {self._cause(error, status)}; trying again in {time_text(pause)}")
                time.sleep(pause)

    def _once(self, ask: Callable[[], T]) -> T:
        from huggingface_hub.utils import get_session

        answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                get_session().timeout = STALL_S  # the client itself would wait for ever
                answers.put((ask(), None))
            except Exception as error:
                answers.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        try:
            found, error = answers.get(timeout=max(0.01, self.end - time.monotonic()))
        except queue.Empty:
            raise self._too_late() from None
        if error is not None:
            raise error
        return found  # type: ignore[return-value]

    def _too_late(self, when: str = "at the deadline") -> TimeoutError:
        return TimeoutError(
            f"{self.repo_id}: not all is there {when}; run the same command to go on, or allow more time"
        )

    def _cause(self, error: Exception, status: int | None) -> str:
        text = redact(" ".join(f"{error} {error.__cause__ or ''}".split()), [self.token])
        return one_line(f"HTTP {status}: {text}" if status else f"{type(error).__name__}: {text}", 240)

    def _in_words(self, error: Exception, status: int | None) -> ValueError:
        advice = {
            401: "check HF_TOKEN",
            403: "use a token that may write there",
            404: "check the name; a token that may not see a repository is told that there is none",
        }.get(status or 0, "run the same command again to go on")
        return ValueError(f"{self.repo_id}: the hub did not take it ({self._cause(error, status)}); {advice}")


def _response(error: BaseException) -> Any:
    """The HTTP response behind an error, also of one that another one wraps; None if there was none."""
    found: BaseException | None = error
    while found is not None:
        response = getattr(found, "response", None)
        if isinstance(getattr(response, "status_code", None), int):
            return response
        found = found.__cause__
    return None


def _status(error: BaseException) -> int | None:
    response = _response(error)
    return None if response is None else int(response.status_code)


def _asked_pause(error: BaseException) -> float | None:
    """The seconds after which the hub wants to be asked again; None if it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    headers = _response(error).headers
    said = str(headers.get("Retry-After", "")).strip()
    if said.isascii() and said.isdigit():
        return float(said)
    window = parse_ratelimit_headers(headers)  # of other counts than the one that is full, it has some left
    return float(window.reset_in_seconds) if window is not None and not window.remaining else None


def _missing(caller: _Caller, api: "HfApi", repo_id: str, kind: RepoKind, files: Sequence[HubFile]) -> list[HubFile]:
    """Those that are not there, or with other bytes."""
    left = []
    for start in range(0, len(files), ASKED_AT_ONCE):
        chunk = files[start : start + ASKED_AT_ONCE]
        names = [one.name for one in chunk]
        told = caller.call(lambda names=names: api.get_paths_info(repo_id, names, repo_type=kind))  # type: ignore[misc]
        there = {one.path: one for one in told}
        left += [one for one in chunk if not _is_same(one, there.get(one.name))]
    return left


def _is_same(one: HubFile, there: object) -> bool:
    if there is None or getattr(there, "size", None) != one.size:
        return False
    large = getattr(there, "lfs", None)
    if large is not None:
        return bool(large.sha256 == one.sha256)
    return getattr(there, "blob_id", None) == _git_hash(one)


def _git_hash(one: HubFile) -> str:
    data = one.source if isinstance(one.source, bytes) else read_regular(one.source)
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def in_commits(files: Sequence[HubFile]) -> Iterator[list[HubFile]]:
    """A commit each: at least one file, and no more than the limits allow."""
    chunk: list[HubFile] = []
    for one in files:
        if chunk and (len(chunk) >= FILES_AT_ONCE or sum(each.size for each in chunk) + one.size > BYTES_AT_ONCE):
            yield chunk
            chunk = []
        chunk.append(one)
    if chunk:
        yield chunk
