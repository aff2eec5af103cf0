"""A model folder: where it is, whether it is safe to load, its family, its digest.

In: a local folder, or a hub id with a 40-hex commit that is downloaded already (this code never downloads).
Out: the folder's path, for a text-to-image model its family (sd, sdxl, sd3, flux), and a digest.
On disk, read only, one of two layouts. diffusers: ``model_index.json`` names the pipeline class and, for each
component, ``[library, class]``; each component is a sub-folder with a JSON config and, if it has weights, safetensors.
transformers and open_clip: one flat folder with a JSON config, tokenizer and safetensors.

Nothing is imported from the folder and no pickle is opened: a folder that asks for either is refused here, before a
library opens it. Links are followed, to files as the hub's cache has them and to folders, and what lies behind them is
checked and hashed as everything else: what a library can open is never left out.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from shards.disk.address import file_path
from shards.disk.regular import read_regular, sha256_of
from shards.disk.safe_text import one_line, quoted
from shards.disk.stand_in import HEAD_BYTES, stand_in

INDEX = "model_index.json"
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

SAMPLER = "sampler.model"  # the field of most recipes
PIPELINES = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
# Pipelines that change pictures, and draw none from text alone.
EDITORS = {
    "StableDiffusionInpaintPipeline": "sd",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "FluxFillPipeline": "flux",
    "FluxKontextPipeline": "flux",
}

# Libraries a component may come from. "stable_diffusion" is diffusers' own name for the pipeline module of the safety
# checker. diffusers would import any other name that stands here.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion"})

CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib"})
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5"})
# what loading can read; the last four are tokenizers'
LOADED_SUFFIXES = frozenset(
    {".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".vocab"}
)
TEMPLATES = "additional_chat_templates"
ADAPTER = "adapter_config.json"  # the libraries load what it names instead of the folder
REMOTE_CODE_KEYS = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code"})

MAX_DEPTH = 8  # folders in each other
MAX_FILES = 10_000  # of a folder, links followed; the largest pipelines have some hundred
MAX_CONFIG_BYTES = 10_000_000  # configs of tokenizers with many added words have more than 1 MB


class ModelError(ValueError):
    """The model folder is missing, unknown or unsafe; the message is one line for people."""


@dataclass(frozen=True)
class ModelFolder:
    """A checked folder of a pipeline."""

    path: Path
    class_name: str  # of diffusers' pipeline
    family: str  # sd, sdxl, sd3, flux
    components: tuple[str, ...]  # sub-folders that model_index.json names
    decoder: Path | None = None  # the checked folder of another decoder, if the recipe names one


def open_model(
    model: str,
    revision: str | None,
    variant: str | None,
    home: Path,
    what: str = SAMPLER,
    kinds: Mapping[str, str] = PIPELINES,
) -> ModelFolder:
    """The checked folder of ``model``; a relative folder is searched in the working folder, then in ``home``.

    A revision makes ``model`` a hub id; without one it is a folder. ``what`` is the recipe's field that names it,
    ``kinds`` the families of the pipelines that may stand there, by class. Raises ModelError.
    """
    folder = _local_folder(model, home, what) if revision is None else _hub_folder(what, model, revision, INDEX)
    return _check_folder(folder, variant, kinds, what)


def model_digest(model: str, revision: str | None, home: Path, what: str = SAMPLER) -> str:
    """Hex sha256 that pins the weights: of the commit for a hub id, otherwise of every file that loading can read.

    For a folder it is the hash of the sorted lines ``name, size, sha256``, so a renamed, cut or edited file changes it,
    and a README does not. One core hashes 1.4 GB/s, if the disk is as fast. Raises ModelError.
    """
    if revision is not None:
        _hub_folder(what, model, revision, INDEX)
        return hub_digest(model, revision)
    folder = _local_folder(model, home, what)
    return _digest(folder, _files(folder), b"")


def flat_model(
    what: str, model: str, revision: str | None, index: str, weights: str, homes: Sequence[Path] = (Path(),)
) -> Path:
    """The checked folder of a model whose files are in one flat folder: a CLIP, a language model.

    ``index`` is the name of its config, ``weights`` that of its safetensors (one file, or several with an index),
    ``what`` the recipe's field that names the model. Without a revision ``model`` is a folder, searched in ``homes``.
    Raises ModelError.
    """
    if revision is None:
        folder = _local_flat_folder(what, model, index, homes)
    else:
        folder = _hub_folder(what, model, revision, index)
    files = _flat_files(folder)
    _check_files(folder, files)
    names = {path.name for path in files}
    if not names & {weights, f"{weights}.index.json"}:
        pickles = [path.name for path in files if path.suffix in PICKLE_SUFFIXES]
        found = f"only {', '.join(pickles)[:120]}" if pickles else "no weights"
        raise ModelError(
            f"{folder}: found {found}, expected {weights}; pickled weights can run code and are never loaded: use a "
            "revision that ships safetensors"
        )
    return folder


def flat_digest(folder: Path, heading: bytes = b"") -> str:
    """Hex sha256 of ``heading``, then of name, size and contents of each file that loading a flat folder can read."""
    return _digest(folder, _flat_files(folder), heading)


def hub_digest(model: str, revision: str) -> str:
    """Hex sha256 of a hub id and its commit, which pin the weights without reading them."""
    return hashlib.sha256(f"hub\0{model}\0{revision}\n".encode()).hexdigest()


def _digest(folder: Path, files: Sequence[Path], heading: bytes) -> str:
    digest = hashlib.sha256(heading)
    for path in files:
        if path.suffix in LOADED_SUFFIXES:
            about = path.stat()
            content = _sha256(path, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
            digest.update(f"{path.relative_to(folder).as_posix()}\0{about.st_size}\0{content}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    """Hex sha256 of a file; its bytes are read once in a process, and again only where its size or times changed."""
    return sha256_of(path)


def _local_folder(model: str, home: Path, what: str) -> Path:
    path = file_path(model)
    name = f"model {model}" if what == SAMPLER else f"{what} {quoted(model, 120)}"
    for folder in (path, home / path):
        if (folder / INDEX).is_file():
            return folder.resolve()
    if path.is_dir() or (home / path).is_dir():
        raise ModelError(f"{name}: found a folder without {INDEX}; expected a diffusers pipeline folder")
    if model.replace("\\", "/").startswith("sandbox/"):
        hint = "make it with `python -m sandbox.build`"
    elif HUB_ID_PATTERN.fullmatch(model):
        hint = f"give an existing folder, or for a hub id also its commit (`{revision_field(what)}=<40 hex digits>`)"
    else:
        hint = "give an existing folder"
    raise ModelError(f"{name}: found no such folder, expected a diffusers pipeline folder; {hint}")


def _local_flat_folder(what: str, model: str, index: str, homes: Sequence[Path]) -> Path:
    folders = [home / file_path(model) for home in homes]
    for folder in folders:
        if (folder / index).is_file():
            return folder.resolve()
    name = f"{what} {quoted(model, 120)}"
    if any(folder.is_dir() for folder in folders):
        raise ModelError(f"{name}: found a folder without {index}, expected a model in its library's own format")
    hint = f"for a model of the hub also give its commit, {revision_field(what)}=<40 hex digits>"
    raise ModelError(
        f"{name}: found no such folder, expected one with {index}; "
        + (hint if HUB_ID_PATTERN.fullmatch(model) else "check the path")
    )


def revision_field(what: str) -> str:
    """The field beside ``what`` that holds the commit: ``clip.revision``, ``sampler.decoder_revision``."""
    if what == "MODEL":  # of the command line
        return "--revision"
    return f"{what.removesuffix('model')}revision" if what.endswith(".model") else f"{what}_revision"


def _hub_folder(what: str, model: str, revision: str, index: str) -> Path:
    if not COMMIT_PATTERN.fullmatch(revision):
        raise ModelError(
            f"{what} {quoted(model, 120)}: found revision {quoted(revision, 80)}, expected a commit of 40 hex "
            f"digits; branches move, so open the model's page, copy the commit and set {revision_field(what)} to it"
        )
    if not HUB_ID_PATTERN.fullmatch(model):
        raise ModelError(
            f"{what} {quoted(model, 120)}: expected a hub id (owner/name) beside a revision; drop the revision"
        )
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, index, revision=revision)
    if not isinstance(found, str):
        raise ModelError(
            f"{what} {model}: commit {revision} is not in the hub cache of this machine; get it with "
            f"`hf download {model} --revision {revision}` (every node needs it, or a shared HF_HOME)"
        )
    return Path(found).parent


def _files(folder: Path) -> list[Path]:
    """Files under ``folder``, in the same order on every machine, without those of git and of the hub client.

    Raises ModelError for more than `MAX_FILES`, which a link to a folder above them or to another place brings.
    """
    names: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(place).relative_to(folder)
        names += [(here / name).as_posix() for name in files if not name.startswith(".")]
        if len(names) > MAX_FILES or len(here.parts) > MAX_DEPTH:
            raise ModelError(
                f"{folder}: found more than {MAX_FILES:,} files or {MAX_DEPTH} folders in each other, expected those "
                "of one model; look for a link to another folder"
            )
    return _regular([folder / name for name in sorted(names)])


def _flat_files(folder: Path) -> list[Path]:
    """Files that loading a flat folder can read, in the same order on every machine: those directly in it, and the
    templates that transformers reads from one folder below it."""
    found = [*folder.iterdir(), *(folder / TEMPLATES).glob("*.jinja")]
    return _regular(sorted(path for path in found if not path.is_dir() and not path.name.startswith(".")))


def _regular(paths: Sequence[Path]) -> list[Path]:
    """Those that are files. Raises ModelError for another thing under the name of a file that a library would open."""
    for path in paths:
        if path.suffix in LOADED_SUFFIXES and not path.is_file():
            raise ModelError(f"{path}: found a link that leads nowhere, a pipe or a device, expected a file")
    return [path for path in paths if path.is_file()]


def _check_files(folder: Path, files: Sequence[Path]) -> None:
    """Raises ModelError for code, for a config that asks for code, and for damaged weights."""
    for path in files:
        if path.suffix in CODE_SUFFIXES:
            raise ModelError(
                f"{folder}: found code in the model folder ({path.relative_to(folder)}), expected none; "
                "use a model that loads without remote code, or remove the file"
            )
        if path.name == ADAPTER:
            raise ModelError(
                f"{path.parent}: found an adapter, whose base model lies elsewhere, expected a whole model; merge the "
                "two"
            )
        if path.suffix == ".json" and (path.name == INDEX or path.name.endswith("config.json")):
            _refuse_remote_code(path, folder)
        if path.suffix == ".safetensors":
            check_safetensors(path)
        if path.name.endswith(".safetensors.index.json"):
            _check_weight_map(path)


def _check_folder(folder: Path, variant: str | None, kinds: Mapping[str, str], what: str) -> ModelFolder:
    index = read_config(folder / INDEX)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str) or class_name not in kinds:
        hint = "custom and community pipelines are never loaded"
        if isinstance(class_name, str) and class_name in EDITORS and kinds is PIPELINES:
            hint = "this one changes pictures: name it in edit.editor.model of a recipe of `sixfold edit`"
        raise ModelError(
            f"{folder}: found pipeline class {quoted(class_name, 80)}, expected one of {', '.join(kinds)}; {hint}"
        )
    _check_files(folder, _files(folder))
    components = []
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue
        if len(entry) != 2 or not all(isinstance(part, str) for part in entry) or entry[0] not in LIBRARIES:
            raise ModelError(
                f"{folder / INDEX}: found component {name} = {entry}, expected [library, class] with a library of "
                f"{', '.join(sorted(LIBRARIES))}; components with code of their own are never loaded"
            )
        component = folder / name
        if component.parent != folder or name.startswith(".") or not component.is_dir():
            raise ModelError(f"{folder}: found no folder {name!r}, which {INDEX} names; download the model again")
        _check_weights(component, variant, revision_field(what).replace("revision", "variant"))
        components.append(name)
    return ModelFolder(folder, class_name, kinds[class_name], tuple(components))


def _check_weights(component: Path, variant: str | None, field: str) -> None:
    """Raises ModelError for a component with a ``config.json``, hence a network, whose weights are no safetensors.
    ``field`` is the recipe's that names the variant."""
    if not (component / "config.json").is_file():
        return
    names = [path.name for path in component.iterdir()]
    safe = [name for name in names if name.endswith(".safetensors")]
    if variant is not None:
        of_variant = [name for name in safe if f".{variant}" in name]
        if safe and not of_variant:
            raise ModelError(
                f"{component}: found no {variant} variant among {', '.join(sorted(safe))}; set variant=null"
            )
    elif safe and all(re.search(r"\.(fp16|bf16)[.-]", name) for name in safe):
        raise ModelError(f"{component}: found only {', '.join(sorted(safe))}; set {field} to load it")
    if safe:
        return
    pickles = sorted(name for name in names if Path(name).suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ModelError(
            f"{component}: found only {', '.join(pickles)}, expected safetensors; pickled weights can run code and "
            "are never loaded: use a revision that ships .safetensors, or convert it in a sandbox"
        )
    raise ModelError(f"{component}: found a config but no weights, expected *.safetensors; download the model again")


def _refuse_remote_code(path: Path, folder: Path) -> None:
    for key in _keys(read_config(path)):
        if key in REMOTE_CODE_KEYS:
            raise ModelError(
                f"{folder}: found {key!r} in {path.relative_to(folder)}, which asks for code from the folder or the "
                "hub; remote code is never loaded: use a model whose classes are in diffusers or transformers"
            )


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def read_config(path: Path) -> dict[str, object]:
    """The JSON object in a file of a model folder. Raises ModelError if it is none, too large, or has a key twice."""
    size, most = path.stat().st_size, MAX_CONFIG_BYTES * (10 if path.name.endswith(".index.json") else 1)
    if size > most:
        raise ModelError(f"{path}: found {size} bytes, expected at most {most} of JSON; check the folder")
    data = read_regular(path)
    _refuse_stand_in(path, data)
    try:
        value = json.loads(data, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: expected JSON with unique keys, found {error}; download the model again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}; download the model again")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a name twice: {next(name for name in names if names.count(name) > 1)!r}")
    return dict(pairs)


def _check_weight_map(path: Path) -> None:
    """Raises ModelError for an index of weights that names a file which is not beside it."""
    weight_map = read_config(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelError(f"{path}: expected a weight_map; download the model again")
    for name in sorted({str(value) for value in weight_map.values()}):
        if (
            Path(name).name != name
            or name.startswith(".")
            or not name.endswith(".safetensors")
            or not (path.parent / name).is_file()
        ):
            raise ModelError(
                f"{path}: found {name!r} in weight_map, expected a file beside it; download the model again"
            )


def check_safetensors(path: Path) -> None:
    """Raises ModelError unless the header describes exactly the bytes that follow it; the library's own reader says."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        with path.open("rb") as file:
            _refuse_stand_in(path, file.read(HEAD_BYTES))
        raise ModelError(
            f"{path}: found another file ({one_line(str(error), 160)}), expected a sound safetensors file; "
            "download the model again"
        ) from None


def _refuse_stand_in(path: Path, head: bytes) -> None:
    found = stand_in(head)
    if found is not None:
        raise ModelError(f"{path}: found {found}")
