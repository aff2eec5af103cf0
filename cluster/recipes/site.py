"""What a site asks of jobs: partition, account, time, GPUs, lines to run first, container.

In: `~/.config/sixfold/site.yaml`, written by hand or by `sixfold submit --init`, and the part `cluster.site` of a
recipe, whose fields win. Out: a `SiteSpec`. On disk: reads that file.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cluster.recipes.load import load_recipe
from shards.disk.safe_text import quoted

FILE = "sixfold/site.yaml"  # below the user's folder of settings
TIME = re.compile(r"([0-9]+-)?[0-9]{1,3}(:[0-9]{2}){0,2}|UNLIMITED")
MOUNT = re.compile(r"[^\s:,]+(:[^\s:,]+){0,2}")


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


Word = Annotated[str, AfterValidator(_word)]


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


class SiteSpec(BaseModel):
    """What jobs of a site need. A field that is not given is the site's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int = Field(1, ge=1, le=100_000, description="machines of a job")
    gpus_per_node: int = Field(0, ge=0, le=64, description="GPUs of each machine; 0 = cores alone")
    gpu_option: Word = Field(
        "--gres=gpu:{gpus}", description="how this site asks for GPUs", examples=["--gpus-per-node=h100:{gpus}"]
    )
    cpus_per_node: int | None = Field(
        None, ge=1, le=4096, description="cores of each machine; null = what the site gives", examples=[32]
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


def settings_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's settings lie: `$XDG_CONFIG_HOME`, else `~/.config`."""
    named = environ.get("XDG_CONFIG_HOME", "")
    return Path(named) if named.startswith("/") else Path.home() / ".config"


def site_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The file of this user's site; it may be missing."""
    return settings_folder(environ) / FILE


def load_site(of_recipe: SiteSpec | None, environ: Mapping[str, str] = os.environ) -> SiteSpec:
    """The site's settings under those that a recipe gives. Raises RecipeError for a file that does not fit."""
    path = site_file(environ)
    known = load_recipe(path, SiteSpec) if path.is_file() else SiteSpec()
    if of_recipe is None:
        return known
    given = {name: getattr(of_recipe, name) for name in of_recipe.model_fields_set}
    return known.model_copy(update=given)
