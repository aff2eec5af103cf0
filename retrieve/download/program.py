"""img2dataset as a program of its own environment: where it is, how it is called, what it may know.

In: a `DownloadSpec`. Out: the program, a command, an environment. On disk: `.tools/img2dataset` of the checkout, which
`make tools` makes from requirements-img2dataset.lock; only read here.

The program stores what it fetched byte by byte: it decodes no picture, reads no EXIF, makes no size. Its environment is
made anew: no proxy but the gate, no home folder, so no .netrc, no configuration and no cookies of the user.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from retrieve.download.spec import DownloadSpec
from shards.disk.address import file_path
from shards.disk.home import home

VERSION = "1.47.0"
TOOL = Path(".tools") / "img2dataset"
LEASH = Path(__file__).resolve().parent / "leash"
LISTED, OUT = "urls.parquet", "out"  # in the folder of a slice
PLACE = "place"  # the column that says which URL of the slice a row is about
# the only variables that stay: certificates of a site that signs its own, and where Python itself finds its libraries
KEPT = ("SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")


def find_program(spec: DownloadSpec) -> Path:
    """Raises ValueError if there is none, or another version."""
    named = spec.program is not None
    path = file_path(spec.program).absolute() if spec.program is not None else home() / TOOL / "bin" / "img2dataset"
    todo = "give download.program" if named else "run `make tools` in the checkout, or name one with download.program"
    if not os.access(path, os.X_OK) or path.is_dir():
        raise ValueError(f"{path}: found no img2dataset, expected {VERSION}; {todo}")
    if not named and not any((home() / TOOL).glob(".ready-*")):
        raise ValueError(f"{path}: found a set-up that was not finished; run `make tools` again")
    versions = sorted(_versions(path.resolve().parent.parent))
    if versions != [VERSION]:
        found = ", ".join(versions) or "none that says its version"
        raise ValueError(f"{path}: found img2dataset {found}, expected {VERSION}; {todo}")
    return path


def with_program(spec: DownloadSpec) -> DownloadSpec:
    """The same with the program that was found, for workers: their copy of the code has no `.tools`. Raises ValueError
    as `find_program` does."""
    return spec.model_copy(update={"program": find_program(spec)})


def _versions(environment: Path) -> set[str]:
    found = environment.glob("lib/python3*/*-packages/img2dataset-*.dist-info")
    return {path.name.removeprefix("img2dataset-").removesuffix(".dist-info") for path in found}


def command_of(program: Path, spec: DownloadSpec, num_urls: int) -> list[str]:
    """For a folder that has `LISTED`; no word of it comes from data."""
    options = {
        "url_list": LISTED,
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": f"['{PLACE}']",
        "output_folder": OUT,
        "output_format": "webdataset",
        "number_sample_per_shard": -(-num_urls // spec.processes),
        "processes_count": spec.processes,
        "thread_count": min(spec.threads, num_urls),
        # of one silence; the gate's deadline is that of the whole answer
        "timeout": program_timeout_s(spec),
        "retries": spec.retries,
        "max_shard_retry": 0,
        "disable_all_reencoding": True,
        "resize_mode": "no",
        "extract_exif": False,
        "compute_hash": None,
        "user_agent_token": f"'{spec.user_agent_token}'",  # quoted, or `None` would be read as no token
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    return ["env", f"PYTHONPATH={LEASH}", str(program), *words]


def program_timeout_s(spec: DownloadSpec) -> float:
    """Longer than the gate ever takes, so that it is the gate that says why."""
    return 3 * spec.timeout_s + 5


def environment_of(gate_url: str, folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the program. `known`: that of this process."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",  # it would ask PyPI at each start
        "WANDB_MODE": "disabled",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        **dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy"), gate_url),
        **{name: known[name] for name in KEPT if name in known},
    }
