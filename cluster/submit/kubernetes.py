"""A call as a RayJob of KubeRay: its manifest, and `kubectl`, each call of it with a deadline.

In: a `Call`, a `SiteSpec`, a `Receipt`. Out: the manifest as YAML, states, what the job has printed. On disk: nothing.

The manifest is two objects of one name: a ConfigMap with the command as a script, the recipe and the small files that
it names, and a RayJob (`ray.io/v1`) that starts a cluster, runs the script on its head with `sixfold` from the image,
begins again if that fails (the finished shards stay), and removes the cluster at the end. It is a script because
KubeRay and `ray job submit` take the words of an entrypoint apart and quote them anew, each in its own way.

Nothing of this machine is seen there: the output is an address, or lies on a volume that all pods see. Ray asks for a
token, which KubeRay makes unless a secret is named. A pod that is to go (a spot machine is taken back) first drains
its node: `sixfold drain`.
"""

import base64
import importlib.metadata
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from cluster.code import program_files
from cluster.process.ask import ask
from cluster.recipes.site import KubernetesSpec, SiteSpec
from cluster.submit.book import Receipt
from cluster.submit.call import Call, whole
from cluster.submit.luggage import Luggage, pack
from cluster.submit.state import JobError, JobState
from cluster.waiting import waiting
from shards.disk.amounts import size_text
from shards.disk.checked_json import plain_json
from shards.disk.home import home
from shards.disk.safe_text import one_line

Json = dict[str, object]

COMMAND_S = 60.0
MOST_SAID = 1 << 28  # bytes of an answer: logs are one
LUGGAGE = "/etc/sixfold"
RUN = "run.sh"  # in it
LARGEST = 300_000  # bytes of a file that travels
MOST_BYTES = 900_000  # of all of them: an object of Kubernetes has at most 1 MiB
CPUS = 4  # of a worker's machine, if the site does not say
# what kubectl says where no answer came: it may have been done all the same
UNCLEAR = re.compile(r"time.?out|timed out|deadline|connection|connect to|EOF|InternalError|unavailable|TooMany", re.I)
STOP_S = 60  # for a job that is asked to stop, and for a pod to drain its node


class _Readable(yaml.SafeDumper):
    """Texts of several lines stand as they are, so that a person can read and change them."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def manifest(call: Call, site: SiteSpec, name: str) -> str:
    """The objects of the call, of this name, as YAML. Raises JobError for one that would not find its files."""
    spec = _spec(site)
    luggage = pack(call, program_files(home()).keys(), LUGGAGE, LARGEST)
    _check_seen(luggage, spec)
    size = sum(path.stat().st_size for path in luggage.files.values())
    if size > MOST_BYTES:
        raise JobError(
            f"{call.recipe}: found {size_text(size)} with the files that it names, expected at most "
            f"{size_text(MOST_BYTES)}; put large ones on a volume (cluster.site.kubernetes.claims) or give addresses"
        )
    objects = [_files(name, spec, luggage), _job(call, site, spec, name)]
    return str(yaml.dump_all(objects, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=120))


def is_here() -> bool:
    """Whether there is a `kubectl`."""
    return shutil.which("kubectl") is not None


def submit(file: Path) -> None:
    """Hand a manifest to Kubernetes. Raises JobError."""
    if not is_here():
        line = whole(["kubectl", "create", "-f", str(file)])
        raise JobError(f"kubectl: found no such command; the manifest is written: run `{line}` where there is one")
    # `apply` would copy each object into an annotation of it, which holds 262,144 bytes; the names are always new
    _kubectl(["create", f"--filename={file}"], "handing the job to Kubernetes")


def states(receipt: Receipt) -> tuple[JobState, ...]:
    """What Kubernetes says of the job; empty if it does not know it (any more). Raises JobError."""
    [name] = receipt.ids
    words = ["get", "rayjob", name, f"--namespace={receipt.where}", "--output=json"]
    try:
        said = plain_json(_kubectl(words, "asking for the job").encode())
    except JobError as error:
        if "NotFound" in str(error):
            return ()
        raise
    except ValueError:
        raise JobError("kubectl: found no JSON as its answer, expected an object; look at its version") from None
    status = said.get("status") or {}
    deployment, job = str(status.get("jobDeploymentStatus") or ""), str(status.get("jobStatus") or "")
    state = (job if deployment == "Complete" and job else deployment or "pending").upper()
    reason = status.get("message") or status.get("reason") or ""
    failed = status.get("failed")
    return (JobState(name, state, one_line(str(reason), 200), failed if isinstance(failed, int) else 0),)


def cancel(receipt: Receipt) -> None:
    """Remove the job and its files; one that is gone already is no mistake. Raises JobError."""
    [name] = receipt.ids
    words = ["delete", f"rayjob/{name}", f"configmap/{name}", f"--namespace={receipt.where}"]
    _kubectl([*words, "--ignore-not-found", "--wait=false"], "cancelling the job")


def printed(receipt: Receipt) -> str:
    """All that the job has printed so far: KubeRay's own job of the same name follows it. Raises JobError."""
    [name] = receipt.ids
    words = ["logs", f"job/{name}", f"--namespace={receipt.where}", "--tail=-1"]
    try:
        return _kubectl(words, "reading what the job has printed")
    except JobError as error:
        if any(one in str(error) for one in ("NotFound", "not found", "ContainerCreating", "is waiting to start")):
            return ""
        raise


def _spec(site: SiteSpec) -> KubernetesSpec:
    if site.kubernetes is None:
        raise JobError(
            "cluster.site.kubernetes: found nothing, expected at least the image; give it in the recipe or in "
            "~/.config/sixfold/site.yaml, for example kubernetes: {image: registry.example/sixfold:1}"
        )
    return site.kubernetes


def namespace_of(site: SiteSpec) -> str:
    """Where the job's objects are made. Raises JobError if the site does not say enough."""
    return _spec(site).namespace


def _check_seen(luggage: Luggage, spec: KubernetesSpec) -> None:
    """Raises JobError for a place of this machine that no pod sees."""
    claims = [PurePosixPath(one.path) for one in spec.claims]
    hidden = [
        place for place in luggage.must_see if not any(PurePosixPath(place).is_relative_to(one) for one in claims)
    ]
    if hidden:
        known = f" (there are {', '.join(map(str, claims))})" if claims else ""
        raise JobError(
            f"{', '.join(hidden)}: found a place of this machine, expected an address such as s3://bucket/name, or a "
            f"place on a volume that the pods see; name volumes in cluster.site.kubernetes.claims{known}"
        )


def _files(name: str, spec: KubernetesSpec, luggage: Luggage) -> Json:
    texts = {RUN: f"exec {shlex.join([spec.program, *luggage.words])}\n"}
    others: dict[str, str] = {}
    for there, path in luggage.files.items():
        data, key = path.read_bytes(), PurePosixPath(there).name
        try:
            texts[key] = data.decode()
        except UnicodeDecodeError:
            others[key] = base64.b64encode(data).decode()
    found: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name, spec), "data": texts}
    return {**found, "binaryData": others} if others else found


def _metadata(name: str, spec: KubernetesSpec) -> Json:
    return {"name": name, "namespace": spec.namespace, "labels": {"app.kubernetes.io/name": "sixfold"}}


def _job(call: Call, site: SiteSpec, spec: KubernetesSpec, name: str) -> Json:
    workers = {"cpu": str(site.cpus_per_node or CPUS), "memory": spec.memory}
    if site.gpus_per_node:
        workers[spec.gpu_resource] = str(site.gpus_per_node)
    head = {"cpu": str(spec.head_cpus), "memory": spec.head_memory}
    token = {"mode": "token", **({"secretName": spec.token_secret} if spec.token_secret else {})}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {**_metadata(name, spec), "annotations": {"sixfold/output": call.out}},
        "spec": {
            "entrypoint": f"bash {LUGGAGE}/{RUN}",
            "submissionMode": "K8sJobMode",
            "runtimeEnvYAML": yaml.safe_dump({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}),
            **({"entrypointNumCpus": site.job.entrypoint_cpus} if site.job.entrypoint_cpus else {}),
            **({"entrypointNumGpus": site.job.entrypoint_gpus} if site.job.entrypoint_gpus else {}),
            "backoffLimit": spec.backoff_limit,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": spec.ttl_s,
            "rayClusterSpec": {
                "rayVersion": importlib.metadata.version("ray"),
                "authOptions": token,
                "headGroupSpec": {
                    # no worker on the head: it holds the program, and must outlive the machines that are taken back
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
                    "template": {"spec": _pod("ray-head", name, spec, head)},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": site.nodes,
                        "minReplicas": site.nodes,
                        "maxReplicas": site.nodes,
                        "rayStartParams": {},
                        "template": {"spec": {**_pod("ray-worker", name, spec, workers), **_machines(spec)}},
                    }
                ],
            },
        },
    }


def _pod(container: str, name: str, spec: KubernetesSpec, resources: Mapping[str, str]) -> Json:
    volumes: list[Json] = [
        {"name": "sixfold", "configMap": {"name": name}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.shm}},
    ]
    mounts: list[Json] = [
        {"name": "sixfold", "mountPath": LUGGAGE, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    for number, one in enumerate(spec.claims):
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": one.claim}})
        mounts.append(
            {"name": f"claim-{number}", "mountPath": one.path, **({"readOnly": True} if one.read_only else {})}
        )
    inside: Json = {
        "name": container,
        "image": spec.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        **({"envFrom": [{"secretRef": {"name": one}} for one in spec.secrets]} if spec.secrets else {}),
        "volumeMounts": mounts,
    }
    if container == "ray-worker":
        drain = [spec.program, "drain", "--reason", "the pod is to go", "--within", str(STOP_S - 10)]
        inside["lifecycle"] = {"preStop": {"exec": {"command": drain}}}
    return {
        **({"serviceAccountName": spec.service_account} if spec.service_account else {}),
        "terminationGracePeriodSeconds": STOP_S,
        "containers": [inside],
        "volumes": volumes,
    }


def _machines(spec: KubernetesSpec) -> Json:
    tolerations = [
        {
            "key": one.key,
            "operator": "Exists" if one.value is None else "Equal",
            **({"value": one.value} if one.value is not None else {}),
            **({"effect": one.effect} if one.effect is not None else {}),
        }
        for one in spec.tolerations
    ]
    return {
        **({"nodeSelector": dict(spec.node_selector)} if spec.node_selector else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }


def _kubectl(words: Sequence[str], what: str) -> str:
    """What the command prints. Raises JobError, `unclear` if no answer came from Kubernetes itself."""
    if not is_here():
        raise JobError("kubectl: found no such command, expected Kubernetes' own; install it, or go where it is")
    command = ["kubectl", *words, f"--request-timeout={COMMAND_S:.0f}s"]
    with waiting(what):
        answer = ask(command, COMMAND_S + 10, os.environ, MOST_SAID)
    if answer.is_late:
        raise JobError(f"kubectl: {answer.trouble} while {what}; try again later", unclear=True)
    if answer.trouble:
        said = one_line(answer.complaint or answer.trouble, 300)
        if 'no matches for kind "RayJob"' in said or 'have a resource type "rayjob"' in said:
            said = "the cluster knows no RayJob; ask for the KubeRay operator (1.5.1 or newer) to be installed"
        raise JobError(f"kubectl: {said}", unclear=UNCLEAR.search(said) is not None)
    return answer.said
