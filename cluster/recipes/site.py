"""What a site asks of jobs: partition, account, time, GPUs, lines to run first, container.

In: `~/.config/sixfold/site.yaml`, written by hand or by `sixfold submit --init`, and the part `cluster.site` of a
recipe, whose fields win. Out: a `SiteSpec`, with a part each for a Ray cluster's job server, Kubernetes and a cloud's
machines. On disk: reads that file.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cluster.recipes.load import load_recipe, parse_recipe
from shards.disk.safe_text import quoted

FILE = "sixfold/site.yaml"  # below the user's folder of settings
TIME = re.compile(r"([0-9]+-)?[0-9]{1,3}(:[0-9]{2}){0,2}|UNLIMITED")
MOUNT = re.compile(r"[^\s:,]+(:[^\s:,]+){0,2}")
QUANTITY = re.compile(r"[1-9][0-9]{0,11}([kMGT]i?|m)?")
LABEL = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _word(text: str) -> str:
    """A word for one line of a script's head, where nothing can be quoted."""
    if not re.fullmatch(r"[A-Za-z0-9_.,:/@%+=*&|()\[\]{}<>!-]{1,200}", text):
        raise ValueError(f"found {quoted(text, 80)}, expected one word without blanks and quotes")
    return text


def _scratch(text: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9/._-]{1,19}", text):
        raise ValueError(
            f"found {quoted(text, 80)}, expected the whole path of a folder, of letters and digits, at most 20 of "
            "them: the paths of Ray's sockets below it must be short"
        )
    return text


def _option(text: str) -> str:
    if not re.fullmatch(r"--[a-z][a-z0-9-]*(=\S{1,200})?", text):
        raise ValueError(f"found {quoted(text, 80)}, expected an option such as --mem=64G")
    return _word(text)


def _time(text: str) -> str:
    if not TIME.fullmatch(text):
        raise ValueError(f"found {quoted(text, 40)}, expected hours:minutes:seconds, such as 04:00:00, or days-hours")
    return text


def _line(text: str) -> str:
    if "\n" in text or "\0" in text:
        raise ValueError(f"found {quoted(text, 80)}, expected one line; give several as a list")
    return text


def _mount(text: str) -> str:
    if not MOUNT.fullmatch(text):
        raise ValueError(f"found {quoted(text, 80)}, expected /here or /here:/there")
    return text


def _quantity(text: str) -> str:
    """An amount as Kubernetes writes it."""
    if not QUANTITY.fullmatch(text):
        raise ValueError(f"found {quoted(text, 40)}, expected an amount such as 64Gi")
    return text


def _label(text: str) -> str:
    """The name of an object of Kubernetes."""
    if not LABEL.fullmatch(text):
        raise ValueError(f"found {quoted(text, 80)}, expected lower-case letters, digits, dashes and dots")
    return text


def _whole(text: str) -> str:
    if not re.fullmatch(r"/[^\s:,]{1,200}", text):
        raise ValueError(f"found {quoted(text, 80)}, expected a whole path such as /data")
    return text


Word = Annotated[str, AfterValidator(_word)]
Quantity = Annotated[str, AfterValidator(_quantity)]
Label = Annotated[str, AfterValidator(_label)]
WholePath = Annotated[str, AfterValidator(_whole)]
Part = TypeVar("Part", bound=BaseModel)


class ContainerSpec(BaseModel):
    """A container that the work runs in; the script around it, which asks SLURM, runs outside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["pyxis", "apptainer"] = Field(
        description="pyxis: srun --container-image; apptainer: apptainer exec", examples=["apptainer"]
    )
    image: Annotated[str, AfterValidator(_line)] = Field(
        description="an address or a file, as the container's program takes it", examples=["/apps/sixfold.sif"]
    )
    mounts: tuple[Annotated[str, AfterValidator(_mount)], ...] = Field(
        default=(), description="folders that are seen inside", examples=[["/scratch", "/data:/data:ro"]]
    )
    program: Annotated[str, AfterValidator(_line)] = Field(
        "sixfold", description="the program sixfold inside the container"
    )


class RayJobSpec(BaseModel):
    """How a job server of Ray starts the program (`--to job:http://HOST:8265`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: Word = Field(
        "python",
        description="on the cluster's machines, with what requirements.lock names",
        examples=["/opt/env/bin/python"],
    )
    entrypoint_cpus: float = Field(
        0.0, ge=0, description="cores that the program itself reserves; 0 = none, and it runs on the head"
    )
    entrypoint_gpus: float = Field(
        0.0, ge=0, description="GPUs that the program itself reserves, for work that stays in its process"
    )


class TolerationSpec(BaseModel):
    """A taint of Kubernetes machines on which pods may run all the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Word = Field(description="of the taint", examples=["cloud.google.com/gke-spot"])
    value: Word | None = Field(None, description="of the taint; null = any", examples=["true"])
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="of the taint; null = all", examples=["NoSchedule"]
    )


class ClaimSpec(BaseModel):
    """A volume claim that all pods see at the same place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Label = Field(description="its name", examples=["data"])
    path: WholePath = Field(description="where the pods see it", examples=["/data"])
    read_only: bool = Field(False, description="whether the pods may only read it")


class KubernetesSpec(BaseModel):
    """What a RayJob of KubeRay needs besides machines, cores and GPUs (`--to k8s`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Word = Field(
        description="made from the Dockerfile, where the cluster can pull it", examples=["registry.example/sixfold:1"]
    )
    namespace: Label = Field("default", description="where the job's objects are made")
    service_account: Label | None = Field(
        None, description="of all pods; null = the namespace's own", examples=["vision"]
    )
    head_cpus: int = Field(2, ge=1, le=1024, description="cores of the head, which holds the program and no worker")
    head_memory: Quantity = Field("8Gi", description="of the head")
    memory: Quantity = Field("32Gi", description="of each machine")
    shm: Quantity = Field("2Gi", description="of /dev/shm, out of the memory")
    gpu_resource: Word = Field("nvidia.com/gpu", description="what GPUs are called there")
    claims: tuple[ClaimSpec, ...] = Field(
        default=(), description="volumes that all pods see", examples=[[{"claim": "data", "path": "/data"}]]
    )
    secrets: tuple[Label, ...] = Field(
        default=(),
        description="secrets whose keys become variables of all pods",
        examples=[["s3-keys", "hugging-face"]],
    )
    token_secret: Label | None = Field(
        None, description="with the key auth_token, for Ray; null = KubeRay makes one", examples=["ray-token"]
    )
    node_selector: Mapping[str, str] = Field(
        default={}, description="labels of the machines for workers", examples=[{"cloud.google.com/gke-spot": "true"}]
    )
    tolerations: tuple[TolerationSpec, ...] = Field(
        default=(),
        description="taints that workers tolerate, such as those of spot machines",
        examples=[[{"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NoSchedule"}]],
    )
    backoff_limit: int = Field(
        3, ge=0, le=100, description="how often a job that failed is begun again, with a new cluster"
    )
    ttl_s: int = Field(600, ge=0, description="seconds that the cluster is kept after the end, to look at")
    program: Word = Field("sixfold", description="the program sixfold in the image")


class CloudSpec(BaseModel):
    """Machines that Ray's cluster launcher rents (`--to cloud`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: Literal["aws", "gcp"] = Field(description="whose machines", examples=["aws"])
    region: Word = Field(description="where", examples=["us-west-2"])
    zone: Word | None = Field(None, description="in the region; null = any; needed for gcp", examples=["us-west-2a"])
    project: Word | None = Field(None, description="for gcp: its id", examples=["vision-314"])
    head_type: Word = Field(description="kind of the head, which needs no GPU", examples=["m5.xlarge"])
    worker_type: Word = Field(
        description="kind of the other machines, one with GPUs of its own", examples=["g5.2xlarge", "g2-standard-8"]
    )
    image: Word = Field(
        description="made from the Dockerfile, where the machines can pull it", examples=["registry.example/sixfold:1"]
    )
    machine_image: Word | None = Field(
        None,
        description="of the machines, with Docker and the GPU's driver; null = the launcher's own, needed for gcp",
        examples=["projects/ml-images/global/images/family/common-cu129-ubuntu-2204-nvidia-580"],
    )
    ssh_user: Word = Field("ubuntu", description="who logs in on the machines")
    disk_gb: int = Field(200, ge=20, le=64_000, description="of each machine")
    spot: bool = Field(True, description="cheaper machines that may be taken back; finished shards stay")


class SiteSpec(BaseModel):
    """What jobs of a site need. A field that is not given is the site's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(1, ge=1, le=100_000, description="machines of a job")
    gpus_per_node: int = Field(0, ge=0, le=64, description="GPUs of each machine; 0 = cores alone")
    gpu_option: Word = Field(
        "--gres=gpu:{gpus}", description="how this site asks for GPUs", examples=["--gpus-per-node=h100:{gpus}"]
    )
    cpus_per_node: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="cores of each machine; null = what the site gives, in Kubernetes 4",
        examples=[32],
    )
    partition: Word | None = Field(None, description="null = the site's default", examples=["gpu"])
    account: Word | None = Field(None, description="who pays", examples=["vision"])
    qos: Word | None = Field(None, description="quality of service", examples=["preemptible"])
    time: Annotated[str, AfterValidator(_time)] = Field(
        "04:00:00", description="limit of one job; one that is not done by then is queued again"
    )
    options: tuple[Annotated[str, AfterValidator(_option)], ...] = Field(
        default=(), description="more options of sbatch", examples=[["--mem=0", "--exclusive"]]
    )
    setup: tuple[Annotated[str, AfterValidator(_line)], ...] = Field(
        default=(),
        description="lines of shell to run first on the job's first machine",
        examples=[["module load cuda"]],
    )
    container: ContainerSpec | None = Field(
        None,
        description="null = the environment that submits",
        examples=[{"kind": "apptainer", "image": "/apps/sixfold.sif"}],
    )
    how: Literal["ray", "array"] = Field(
        "ray",
        description="ray: one job, Ray over its machines; array: tasks of one GPU each that claim units, without Ray",
    )
    tasks: int = Field(8, ge=1, le=100_000, description="of an array")
    most_at_once: int | None = Field(
        None, ge=1, description="tasks of an array that run at the same time; null = all", examples=[16]
    )
    max_array: int = Field(1000, ge=1, description="tasks of one array that the site takes; more become more arrays")
    warn_s: int = Field(120, ge=10, le=65_535, description="seconds before the time limit at which a job is warned")
    chain: Literal["requeue", "resubmit", "never"] = Field(
        "requeue", description="how work goes on past the time limit: the same job, a new job, or by hand"
    )
    scratch: Annotated[str, AfterValidator(_scratch)] = Field(
        "/tmp", description="folder on each machine, for Ray; a short path, for Ray's sockets lie below it"
    )
    price_per_gpu_hour: float | None = Field(None, ge=0, description="for `--dry-run`, in any currency", examples=[2.5])
    job: RayJobSpec = Field(RayJobSpec(), description="for `--to job:http://HOST:8265`: how the program is started")
    kubernetes: KubernetesSpec | None = Field(
        None, description="for `--to k8s`", examples=[{"image": "registry.example/sixfold:1", "namespace": "vision"}]
    )
    cloud: CloudSpec | None = Field(
        None,
        description="for `--to cloud`",
        examples=[
            {
                **{"provider": "aws", "region": "us-west-2", "head_type": "m5.xlarge", "worker_type": "g5.2xlarge"},
                "image": "registry.example/sixfold:1",
            }
        ],
    )


def settings_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's settings lie: `$XDG_CONFIG_HOME`, else `~/.config`."""
    named = environ.get("XDG_CONFIG_HOME", "")
    return Path(named) if named.startswith("/") else Path.home() / ".config"


def site_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The file of this user's site; it may be missing."""
    return settings_folder(environ) / FILE


def load_site(of_recipe: SiteSpec | None, environ: Mapping[str, str] = os.environ, told: str = "") -> SiteSpec:
    """The site's settings under those that a recipe gives. `told`: what stands in for the file, if there is none.
    Raises RecipeError for a file that does not fit."""
    path = site_file(environ)
    known = load_recipe(path, SiteSpec) if path.is_file() else parse_recipe(told.encode() or b"{}", SiteSpec, str(path))
    return known if of_recipe is None else _over(known, of_recipe)


def _over(known: Part, given: Part) -> Part:
    """`known` with what was given; a part in both is laid over field by field."""
    update = {}
    for name in given.model_fields_set:
        old, new = getattr(known, name), getattr(given, name)
        both = isinstance(old, BaseModel) and isinstance(new, BaseModel)
        update[name] = _over(old, new) if both else new
    return known.model_copy(update=update)
