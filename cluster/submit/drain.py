"""This machine is to go: Ray is told, and its work goes on elsewhere.

In: a reason, how long the machine has, or whose notice is waited for. Out: whether Ray took the notice. On disk:
nothing.

A node that drains is given nothing new: Ray places nothing there, and our driver begins no unit there, ends the workers
that are free and keeps the ones that are at work (`cluster.fan_out.ray_driver`). What they have not finished when the
machine goes is made elsewhere; finished shards stay.

Notices come from the provider's own address in each machine: Amazon says two minutes ahead that a spot machine is taken
back, Google half a minute.
"""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from cluster.submit.deadline import within
from shards.disk.safe_text import one_line

Provider = Literal["aws", "gcp"]

ANSWER_S = 5.0
WATCH_S = 5.0
LOOK_S = 0.5
TOLD_S = 30.0  # for Ray to take the notice
NOTICE_S = {"aws": 120.0, "gcp": 30.0}
METADATA = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}


class DrainError(RuntimeError):
    """There is no node of Ray here, or Ray does not take the notice; the message is one line."""


@dataclass(frozen=True)
class Node:
    """A node of Ray on this machine."""

    id: str
    head: str  # host:port
    process: int  # of its raylet


def nodes_here() -> list[Node]:
    """The nodes of Ray that this user runs on this machine, by their processes."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "uids"]):
        info = process.info
        if info["name"] == "raylet" and info["uids"] is not None and info["uids"].real == os.getuid():
            words = dict(word.lstrip("-").partition("=")[::2] for word in info["cmdline"] or [] if "=" in word)
            named = {name.replace("-", "_"): value for name, value in words.items()}
            if "node_id" in named and "gcs_address" in named:
                found.append(Node(named["node_id"], named["gcs_address"], process.pid))
    return found


def drain(reason: str, within_s: float, node_id: str | None = None) -> str:
    """Tell Ray that this machine's nodes, or the one of that id, are to go within that time; wait until they hold
    nothing any more, or until then. A line that says how it ended. Raises DrainError."""
    nodes = [node for node in nodes_here() if node_id in (None, node.id)]
    if not nodes:
        raise DrainError("found no node of Ray on this machine, expected one; run this where `ray start` ran")
    deadline = time.monotonic() + within_s
    for node in nodes:
        _tell(node, reason, within_s)
    while left := [node for node in nodes if _runs(node)]:
        if time.monotonic() >= deadline:
            return f"{len(left)} of {len(nodes)} nodes still at work after {within_s:.0f} s; the rest is made elsewhere"
        time.sleep(LOOK_S)
    return f"{len(nodes)} of {len(nodes)} nodes drained"


def wait_for_notice(provider: Provider, base: str = "", pause: Callable[[float], None] = time.sleep) -> str:
    """Ask the provider every few seconds until it takes this machine back; what it said. There is no deadline: to wait
    is what the program is for. `base`: who is asked instead of the provider's own address."""
    while not (said := notice(provider, base or METADATA[provider])):
        pause(WATCH_S)
    return said


def notice(provider: Provider, base: str) -> str:
    """What the provider says of this machine's end; "" if nothing, or if nobody answers."""
    try:
        if provider == "gcp":
            said = _ask(f"{base}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
            return "the machine is preempted" if said.strip().upper() == "TRUE" else ""
        key = _ask(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}, "PUT")
        said = _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": key.strip()})
        return f"the spot machine is taken back: {one_line(said, 200)}"
    except (OSError, ValueError):  # 404 until there is a notice
        return ""


def _ask(address: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(address, headers=dict(headers), method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the machine itself answers
    with opener.open(request, timeout=ANSWER_S) as answer:
        return bytes(answer.read(10_000)).decode()


def _tell(node: Node, reason: str, within_s: float) -> None:
    import ray
    from ray.core.generated import autoscaler_pb2

    gcs: Any = ray._raylet
    reasons: Any = autoscaler_pb2.DrainNodeReason  # type: ignore[attr-defined]

    until_ms = int((time.time() + within_s) * 1000)
    preempted = reasons.Value("DRAIN_NODE_REASON_PREEMPTION")
    try:
        taken, why = within(
            TOLD_S,
            lambda: gcs.GcsClient(address=node.head).drain_node(node.id, preempted, one_line(reason, 200), until_ms),
        )
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise DrainError(f"{node.head}: Ray's head does not take the notice ({one_line(str(error), 200)})") from error
    if not taken:
        raise DrainError(f"{node.head}: Ray's head refuses to drain node {node.id} ({one_line(str(why), 200)})")


def _runs(node: Node) -> bool:
    try:
        process = psutil.Process(node.process)
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
