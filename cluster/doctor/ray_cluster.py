"""The Ray cluster that runs would use: whether its head answers, the ports of one that is started, the access token.

In: the environment. Out: `Check`s. On disk: looks at the mode of the token's file.
"""

import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.doctor.check import Check, check
from cluster.process.environment import named_cluster
from cluster.process.reach import why_no_head
from cluster.process.stop_flag import StopFlag

HEAD_S = 3.0  # for the head of a cluster to answer
HEAD_PORT = 6379
PORTS = {HEAD_PORT: "--port", 8265: "--dashboard-port"}  # those of `ray start --head`, and how to give another


def ray_cluster(environ: Mapping[str, str], ports: Mapping[int, str] = PORTS) -> Iterator[Check]:
    """The cluster that is named, or the ports of one that a person might start here; then the token."""
    address = named_cluster(environ)
    if not address:
        yield Check("RAY_ADDRESS", "ok", "none named: runs start Ray on this machine, on free ports")
        for port, option in ports.items():
            yield _port(port, option, environ)
    elif address == "auto":
        yield Check("RAY_ADDRESS", "note", "auto: not asked", "a run joins the cluster that this machine is a node of")
    else:
        wrong = why_no_head(address, HEAD_S, environ, StopFlag())
        found = wrong or "its head answers: runs join that cluster"
        yield check("RAY_ADDRESS", not wrong, found, "start the cluster, or correct or unset RAY_ADDRESS")
    yield from _token(environ, address)


def _port(port: int, option: str, environ: Mapping[str, str]) -> Check:
    """A note if `ray start --head` would not get it; runs do not need it."""
    name = f"port {port}"
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        another = f"a `ray start --head` here needs {option}=N"
        if option != PORTS[HEAD_PORT] or why_no_head(f"127.0.0.1:{port}", HEAD_S, environ, StopFlag()):
            return Check(name, "note", f"taken ({error.strerror})", another)
        use = f"set RAY_ADDRESS=127.0.0.1:{port} to run on that cluster; another one: {another}"
        return Check(name, "note", "taken by the head of a Ray cluster", use)
    return Check(name, "ok", "free")


def _token(environ: Mapping[str, str], address: str) -> Iterator[Check]:
    token = Path(environ.get("RAY_AUTH_TOKEN_PATH", str(Path.home() / ".ray" / "auth_token")))
    if token.is_file():
        mode = stat.S_IMODE(token.stat().st_mode)
        yield check("Ray token file", not mode & 0o077, oct(mode), f"chmod 600 {token}")
    elif address and "RAY_AUTH_TOKEN" not in environ:
        yield Check(
            "Ray token",
            "note",
            "none",
            "a cluster without token runs code for anyone who reaches it; set RAY_AUTH_MODE=token",
        )
    if address and environ.get("RAY_AUTH_MODE", "token") != "token":
        found = f"RAY_AUTH_MODE={environ['RAY_AUTH_MODE']}"
        yield Check("Ray token mode", "note", found, "the cluster may ask nobody for a token; set RAY_AUTH_MODE=token")
