"""A call as a job of a Ray cluster that is up: handed over to its job server, asked for, read, cancelled.

In: a `Call`, a `SiteSpec`, the address of the job server, a `Receipt`. Out: the id of the job, its state, what it has
printed. On disk: the package, a zip file in the job's folder, gone when it is sent.

The package is the program itself, exactly the files that `cluster.code` names (so no `.git`, outputs or environments),
and the luggage of the call. The job runs it on the cluster's head; workers get their code from there
(`cluster.fan_out.ray_session`). A folder as output has to be seen from there: the job looks for its own receipt first.
The token comes from the environment, by Ray's own variables, and is sent to this server alone. A job that is cancelled
is asked to stop, and has as long as its recipe's `drain_s` may be.
"""

import contextlib
import functools
import http.client
import logging
import os
import re
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.code import program_files, zip_files
from cluster.recipes.site import SiteSpec
from cluster.submit.book import Receipt
from cluster.submit.call import RANKS, Call, Target
from cluster.submit.deadline import Answer, within
from cluster.submit.luggage import LARGEST, Luggage, pack
from cluster.submit.state import JobError, JobState
from cluster.waiting import waiting
from shards.disk.address import local_root
from shards.disk.amounts import size_text
from shards.disk.checked_json import plain_json
from shards.disk.home import home
from shards.disk.safe_text import one_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LUGGAGE = "job"  # its folder in the package
REACH_S = 10.0  # for the server to say who it is
ANSWER_S = 60.0  # for any other answer
SEND_S = 300.0  # for the package
STOP_S = 60  # for a cancelled job to end by itself; Ray gives 3 s
LEAST_RAY = (2, 60)  # the one that our lock names
MOST_BYTES = 100 * 2**20  # of one request to the server (`ray._private.ray_constants.DASHBOARD_CLIENT_MAX_SIZE`)
NAMED = 3  # largest files that a message names
# by the server itself, not by what is between
REFUSED = re.compile(r"failed with status code (4\d\d|500)\b|Authentication (required|failed)")
WITH_ADDRESS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client would go there instead


@dataclass(frozen=True)
class Package:
    """What is sent: files by their names in it, the command that runs them, what has to be seen from there."""

    files: dict[str, Path]
    entrypoint: str
    must_see: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.files.values())


def package_of(call: Call, site: SiteSpec, proof: Path | None) -> Package:
    """The package of `call`. `proof`: a file in the output that the job must see, if that is a folder. Raises
    JobError if it is larger than Ray takes."""
    program = program_files(home())
    # ranks on other machines have our code, and no luggage
    luggage = pack(call, program.keys(), LUGGAGE, LARGEST if RANKS not in call.arguments else -1)
    package = Package({**program, **luggage.files}, _entrypoint(call, luggage, site, proof), luggage.must_see)
    if package.num_bytes > MOST_BYTES:
        sizes = {name: file.stat().st_size for name, file in package.files.items()}
        largest = sorted(sizes, key=lambda name: -sizes[name])[:NAMED]
        raise JobError(
            f"package: found {size_text(package.num_bytes)}, expected at most {size_text(MOST_BYTES)}, which is Ray's "
            f"limit; the largest are {', '.join(f'{name} ({size_text(sizes[name])})' for name in largest)}; give large "
            "files as addresses, or as folders that the cluster sees"
        )
    return package


def submit(package: Package, receipt: Receipt, call: Call, site: SiteSpec) -> None:
    """Hand the job over, under the receipt's id. Raises JobError."""
    [name] = receipt.ids
    client = _client(receipt.where)
    archive = Path(receipt.folder) / "package.zip"
    zip_files(package.files, archive)
    try:
        _within(
            SEND_S,
            f"sending {size_text(package.num_bytes)} to the job server",
            receipt.where,
            lambda: client.submit_job(
                entrypoint=package.entrypoint,
                submission_id=name,
                runtime_env={
                    "working_dir": str(archive),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
                },
                metadata={"job_name": call.name, "sixfold_output": call.out},
                entrypoint_num_cpus=site.job.entrypoint_cpus or None,
                entrypoint_num_gpus=site.job.entrypoint_gpus or None,
            ),
        )
    finally:
        archive.unlink()


def check_server(address: str) -> None:
    """Raises JobError unless a job server of Ray answers there, takes our token, and is new enough."""
    _check_server(address, _headers())


def states(receipt: Receipt) -> tuple[JobState, ...]:
    """What the server says of the job; empty if it does not know it (any more). Raises JobError."""
    [name] = receipt.ids
    client = _client(receipt.where)
    known = _of_known(receipt, lambda: client.get_job_info(name), "asking for the job")
    if known is None:
        return ()
    code = f"exit code {known.driver_exit_code}" if known.driver_exit_code else ""
    reason = code or (known.error_type or "") if known.status != "RUNNING" else ""
    return (JobState(name, str(known.status), one_line(reason, 200)),)


def cancel(receipt: Receipt) -> None:
    """Ask the job to stop; one that has ended already is no mistake. Raises JobError."""
    [name] = receipt.ids
    client = _client(receipt.where)
    _of_known(receipt, lambda: client.stop_job(name), "cancelling the job")


def printed(receipt: Receipt) -> str:
    """All that the job has printed so far. Raises JobError."""
    [name] = receipt.ids
    client = _client(receipt.where)
    text = _of_known(receipt, lambda: client.get_job_logs(name), "reading what the job has printed")
    return (text or "").replace("\t", " ")


def token(environ: Mapping[str, str]) -> str:
    """The token for the server, from where Ray itself looks for it; "" if there is none."""
    if given := environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    path = environ.get("RAY_AUTH_TOKEN_PATH", "")
    if not path and environ.get("RAY_AUTH_MODE", "").lower() == "token":
        path = str(Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(FileNotFoundError):
        return Path(path).read_text().strip() if path else ""
    return ""


def _entrypoint(call: Call, luggage: Luggage, site: SiteSpec, proof: Path | None) -> str:
    verb, recipe, *words = luggage.words
    run = f"exec {site.job.python} sixfold.py {shlex.join(luggage.words)}"
    if RANKS in call.arguments:  # they start in the folder where this starts, and the job's is on one machine only
        start = f'code=$PWD; cd / && exec {site.job.python} "$code"/sixfold.py'
        run = f'{start} {verb} "$code"/{shlex.quote(recipe)} {shlex.join(words)}'
    if proof is None:
        return run
    root = local_root(call.out)
    line = (
        f"sixfold: {root}: found nothing here on the cluster, expected the folder of the machine that submitted; give "
        "one that all machines share, or an address such as s3://bucket/name"
    )
    return f"[ -e {shlex.quote(str(proof))} ] || {{ echo {shlex.quote(line)} >&2; exit 2; }}; {run}"


def _client(address: str) -> "JobSubmissionClient":
    """A client of the server, which has said who it is. Raises JobError."""
    headers = _headers()
    _check_server(address, headers)
    return _made_client(address, headers.get("Authorization", ""))


@functools.lru_cache(maxsize=8)
def _made_client(address: str, authorization: str) -> "JobSubmissionClient":
    """Made once an address and token: to make one takes the server three answers."""
    with waiting("loading Ray"):
        from ray.job_submission import JobSubmissionClient
    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they print what we say ourselves
    headers = {"Authorization": authorization} if authorization else {}
    with _no_other_address():
        return _within(
            ANSWER_S, "asking the job server", address, lambda: JobSubmissionClient(address, headers=headers)
        )


def _headers() -> dict[str, str]:
    given = token(os.environ)
    return {"Authorization": f"Bearer {given}"} if given else {}


def _check_server(address: str, headers: Mapping[str, str]) -> None:
    request = urllib.request.Request(f"{address}/api/version", headers=dict(headers))
    where = Target("job", address)
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with waiting(f"asking the job server at {address}"), opener.open(request, timeout=REACH_S) as answer:
            said = plain_json(answer.read(100_000))
        version = str(said["ray_version"])
    except urllib.error.HTTPError as error:
        raise JobError(f"{where}: {_refusal(error.code, headers)}") from None
    except (OSError, http.client.HTTPException) as error:
        why = one_line(str(getattr(error, "reason", error)) or type(error).__name__, 120)
        raise JobError(
            f"{where}: nobody answers ({why}), expected the job server of a Ray cluster, which listens on port 8265 of "
            "its head; start the cluster, correct the address, or forward the port to this machine"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise JobError(f"{where}: what answers there is no job server of Ray; correct the address") from None
    if _parts(version) < LEAST_RAY:
        raise JobError(
            f"{where}: found Ray {one_line(version, 40)}, expected {'.'.join(map(str, LEAST_RAY))} or newer; make the "
            "cluster's machines from the Dockerfile, or from requirements.lock"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Ray's job server sends nobody elsewhere, and a token is for the server that was named."""

    def redirect_request(self, *_: object) -> None:
        """None: the answer counts as it is."""


def _refusal(code: int, headers: Mapping[str, str]) -> str:
    if code == 401 or (code == 403 and not headers):
        return (
            "found no token, expected the cluster's; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH (on the head "
            "`ray get-auth-token` prints it)"
        )
    if code == 403:
        return "the server refused the token; set RAY_AUTH_TOKEN to what `ray get-auth-token` prints on the head"
    return f"what answers there is no job server of Ray (HTTP {code}); correct the address"


def _parts(version: str) -> tuple[int, ...]:
    """`2.60.1` -> (2, 60); () for what is no version."""
    numbers = version.split(".")[:2]
    return tuple(map(int, numbers)) if all(one.isascii() and one.isdecimal() for one in numbers) else ()


@contextlib.contextmanager
def _no_other_address() -> Iterator[None]:
    """The client prefers an address of the environment to the one that it is given."""
    before = {name: os.environ.pop(name) for name in WITH_ADDRESS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _of_known(receipt: Receipt, ask: Callable[[], Answer], what: str) -> Answer | None:
    """The answer; None if the server does not know the job."""
    try:
        return _within(ANSWER_S, what, receipt.where, ask)
    except JobError as error:
        if "does not exist" in str(error):
            return None
        raise


def _within(seconds: float, what: str, address: str, ask: Callable[[], Answer]) -> Answer:
    """The answer to a question that has no deadline of its own: Ray's client sets none. Raises JobError, also for what
    the client raises; it is clear only if the server itself has refused."""
    where = Target("job", address)
    try:
        with waiting(what):
            return within(seconds, ask)
    except TimeoutError:
        raise JobError(f"{where}: found no answer within {seconds:.0f} s while {what}; try again later", True) from None
    except Exception as error:  # the client raises bare RuntimeErrors, and those of three libraries
        raise JobError(f"{where}: {_plain(error)}", REFUSED.search(str(error)) is None) from error


def _plain(error: Any) -> str:
    """What the server said, without the traceback that it sends along."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text and lines:
        text = f"{lines[0].partition('Traceback')[0]} {lines[-1]}"
    return one_line(text or type(error).__name__, 300)
