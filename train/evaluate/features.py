"""Features of the pictures of a set: what a network that lies somewhere makes of each.

In: the name of a network, the address of a set of any kind that a training reads. Out: a `Network`; a `Set` of float32
rows. On disk: rows are kept in the user's cache (`shards.disk.machine_cache`) by the contents of the pictures and of
the network. Sets whose bytes nobody has hashed, such as image folders, are not kept.

    sandbox/models/clip, open_clip:FOLDER        a CLIP: unit rows, and texts can be compared with pictures
    the folder of a training of task clip        the adapted CLIP that it has exported, likewise
    facebook/dinov2-large with its commit        DINOv2 or DINOv3 of transformers: the class token
    resnet50.a1_in1k, a folder of timm or ours   a classifier without its last layer

Nothing is downloaded, nothing is run from a folder, no pickle is opened (`gen.model.folder`).
"""

import contextlib
import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gen.model.clip import OPEN_CLIP, Clip, ClipSpec
from gen.model.folder import ModelError, flat_digest, flat_model, hub_digest, read_config
from shards.disk.address import file_path
from shards.disk.data_set import is_data_set
from shards.disk.home import home
from shards.disk.machine_cache import cache_folder
from shards.disk.replace import replace_file
from shards.disk.safe_text import quoted, visible
from shards.disk.store import open_for_reading
from shards.set.manifest import read_table, scan_records
from shards.set.status import refuse_unfinished
from shards.stream.fetch import FetchError
from shards.stream.foreign_tars import short_id
from shards.stream.index import load_index
from shards.stream.index_arrays import Index
from shards.stream.pixels import UnreadablePicture, eval_pixels, whole_pixels
from shards.stream.spec import CacheSpec
from train.evaluate.subject import Subject, load_subject, open_subject
from train.model.classifiers import SANDBOX
from train.model.clip import exported_clip_in
from train.model.input import to_input

NETWORK = "MODEL"  # of the command line: its commit is --revision
SANDBOX_CLIP = "sandbox/models/clip"
VISION = frozenset({"dinov2", "dinov2_with_registers", "dinov3_vit"})  # of transformers
VERSION = b"1"  # of what is kept
BATCH = 64
DEADLINE_S = 300.0  # for a picture

Picture = NDArray[np.uint8]
Rows = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Network:
    """What makes features of pictures; loaded."""

    shown: str  # for people
    digest: str  # hex: weights and preprocessing
    prepare: Callable[[bytes], Picture]  # a file's bytes -> what `rows` takes; from any thread
    rows: Callable[[list[Picture]], Rows]  # N pictures -> N D
    texts: Callable[[Sequence[str]], Rows] | None = None  # unit rows of texts; of a CLIP, whose rows are unit rows
    maps: Callable[[list[Picture]], list[Tensor]] | None = None  # N pictures -> N C P of each layer, P places

    @property
    def is_clip(self) -> bool:
        return self.texts is not None


@dataclass(frozen=True, eq=False)
class Set:
    """The features of a set's pictures, in the order of its index."""

    source: str
    index: Index
    rows: Rows
    captions: dict[int, str] = field(default_factory=dict)  # short id -> caption; {} where the set has none


def open_network(name: str, revision: str | None, device: str) -> Network:
    """Load a network. Raises ValueError with one line for what is not there, unsafe, or of another kind."""
    if name.startswith(OPEN_CLIP):
        return _clip(name, revision, device)
    if revision is None and (adapted := exported_clip_in(file_path(name))) is not None:
        return _clip(adapted, None, device)
    folder = _folder_with(name, revision)
    kind = None if folder is None else read_config(folder / "config.json").get("model_type")
    if kind == "clip":
        return _clip(name, revision, device)
    if kind is not None:
        assert folder is not None
        return _transformers(name, revision, folder, str(kind), device)
    return _classifier(open_subject(name, revision), device)


def _folder_with(name: str, revision: str | None) -> Path | None:
    """The folder, if it has the config.json of transformers; None for what may be timm's or ours."""
    if revision is not None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json", revision=revision)
        folders = [Path(found).parent] if isinstance(found, str) else []
    else:
        folders = [file_path(name), home() / name]
    for folder in folders:
        if (folder / "config.json").is_file() and "model_type" in read_config(folder / "config.json"):
            return folder
    if revision is None and not any(folder.exists() for folder in folders):
        _refuse_without_commit(name)
    return None


def _refuse_without_commit(name: str) -> None:
    """Raises ModelError for the hub id of a model of transformers: a commit names its weights."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return
    if isinstance(found, str) and "model_type" in read_config(Path(found)):
        raise ModelError(
            f"{NETWORK} {quoted(name, 120)}: found a hub id without its commit, expected --revision COMMIT; in the "
            f"cache of this machine is {Path(found).parent.name}"
        )


def _clip(name: str, revision: str | None, device: str) -> Network:
    clip = Clip.load(ClipSpec(model=name, revision=revision, device=device, batch=BATCH))
    rows, texts = clip.embed_images, clip.embed_texts
    return Network(f"CLIP {visible(name)}", clip.digest, whole_pixels, rows, texts, clip.image_maps)


def _transformers(name: str, revision: str | None, folder: Path, kind: str, device: str) -> Network:
    if kind not in VISION:
        raise ModelError(
            f"{NETWORK} {quoted(name, 120)}: found a model of the type {quoted(kind, 40)}, expected clip, "
            f"{', '.join(sorted(VISION))}, or a classifier of timm"
        )
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = flat_model(NETWORK, name, revision, "config.json", "model.safetensors", (Path(), home()))
    try:
        model = AutoModel.from_pretrained(place, use_safetensors=True, dtype=torch.float32, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(place, local_files_only=True)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{place}: found a model that transformers cannot load ({' '.join(str(error).split())[:160]})"
        ) from None
    model = model.eval().to(device)

    def pixels_of(pictures: list[Picture]) -> Tensor:
        found: Tensor = processor(images=pictures, return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ]
        return found.to(device)

    def rows(pictures: list[Picture]) -> Rows:
        with torch.inference_mode():
            found: Rows = model(pixel_values=pixels_of(pictures)).last_hidden_state[:, 0].float().cpu().numpy()
        return found

    places_from = 1 + getattr(model.config, "num_register_tokens", 0)  # the class token and registers have no place

    def maps(pictures: list[Picture]) -> list[Tensor]:
        with torch.inference_mode():
            layers = model(pixel_values=pixels_of(pictures), output_hidden_states=True).hidden_states[1:]
        return [one_NTC[:, places_from:].mT for one_NTC in layers]

    digest = hub_digest(name, revision) if revision is not None else flat_digest(place, b"transformers\n")
    return Network(f"{kind} {visible(name)}", digest, whole_pixels, rows, maps=maps)


def _classifier(subject: Subject, device: str) -> Network:
    about, model = subject.about, load_subject(subject)
    if about.architecture in SANDBOX:
        setattr(model, SANDBOX[about.architecture], nn.Identity())
    else:
        model.reset_classifier(0)  # type: ignore[operator]
    model = model.to(device)

    def input_of(pictures: list[Picture]) -> Tensor:
        return to_input(np.stack(pictures), torch.device(device), about.normal)

    def rows(pictures: list[Picture]) -> Rows:
        with torch.inference_mode():
            found: Rows = model(input_of(pictures)).float().cpu().numpy()
        return found

    def maps(pictures: list[Picture]) -> list[Tensor]:
        with torch.inference_mode():
            return [one_NCHW.flatten(2) for one_NCHW in _layers(model, input_of(pictures))]

    shown = (about.size_px, about.crop_pct, about.normal.mean, about.normal.std)
    digest = hashlib.sha256(f"classifier\0{subject.found.sha256}\0{shown}".encode()).hexdigest()
    prepare = partial(eval_pixels, size_px=about.size_px, crop_pct=about.crop_pct)
    can_tell = hasattr(model, "forward_intermediates") or about.architecture in SANDBOX
    return Network(
        f"{about.architecture} {subject.found.shown}", digest, prepare, rows, maps=maps if can_tell else None
    )


def _layers(model: nn.Module, images_NCHW: Tensor) -> list[Tensor]:
    """What the layers of a classifier make of pictures, N C H W each: those that timm names, or the stages of one of
    ours."""
    if hasattr(model, "forward_intermediates"):
        return list(model.forward_intermediates(images_NCHW, intermediates_only=True))  # type: ignore[operator]
    layers: list[Tensor] = []
    stages = model.get_submodule("stages").children()
    hooks = [stage.register_forward_hook(lambda stage, given, made: layers.append(made)) for stage in stages]
    try:
        model(images_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def features_of(
    network: Network, source: str, subset: str | None, tell: Callable[[int, int], None], say: Callable[[str], None]
) -> Set:
    """The features of every picture of a set; `tell` hears how many of how many are there.

    Raises ValueError for a set that is missing or not finished, and for a picture that cannot be read.
    """
    if subset is None:
        refuse_unfinished(source, "DATASET")
    index = load_index(source, subset)
    captions = _captions(source, index) if network.is_clip else {}
    if not all(index.tar_sha256):
        return Set(source, index, _rows(network, source, index, tell), captions)
    key = hashlib.sha256(b"\0".join([VERSION, index.digest.encode(), network.digest.encode()])).hexdigest()
    kept = cache_folder(os.environ, "features", say) / f"{key}.npy"
    try:
        rows = np.load(kept, allow_pickle=False)
        if rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == len(index):
            tell(len(rows), len(rows))
            return Set(source, index, rows, captions)
    except (OSError, ValueError):
        pass  # not there, or cut off: it is made again
    rows = _rows(network, source, index, tell)
    replace_file(kept, _npy(rows))
    return Set(source, index, rows, captions)


def _rows(network: Network, source: str, index: Index, tell: Callable[[int, int], None]) -> Rows:
    """Pictures are decoded by threads, some batches ahead of the network."""
    if not len(index):
        raise ValueError(f"{index.url}: found no picture, expected some; check the folder and the subset")
    blocks: list[Rows] = []
    waiting: deque[list[Future[Picture]]] = deque()
    with reading(source, index) as read, ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        starts = deque(range(0, len(index), BATCH))
        while starts or waiting:
            while starts and len(waiting) < 3:
                start = starts.popleft()
                rows = range(start, min(start + BATCH, len(index)))
                waiting.append([threads.submit(read, row, network.prepare) for row in rows])
            blocks.append(network.rows([one.result(DEADLINE_S) for one in waiting.popleft()]))
            tell(sum(map(len, blocks)), len(index))
    return np.concatenate(blocks).astype(np.float32)


class Read(Protocol):
    """Reads a picture of a set."""

    def __call__(self, row: int, decode: Callable[[bytes], T]) -> T:
        """What `decode` makes of the bytes of a row's file; from any thread. Raises ValueError, with the file's name,
        for a picture that cannot be read, TimeoutError if the storage does not answer."""


@contextlib.contextmanager
def reading(source: str, index: Index) -> Iterator[Read]:
    """The pictures of a set, one by one; of no row is anything kept."""
    fetcher = CacheSpec().fetcher(source, index, DEADLINE_S, 1, "first")

    def read(row: int, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(fetcher.read(row))
        except (UnreadablePicture, FetchError) as error:
            raise ValueError(f"{index.url}: {visible(index.place_of(row))}: {error}; {index.mend}") from error

    try:
        yield read
    finally:
        fetcher.close()


def _captions(source: str, index: Index) -> dict[int, str]:
    store = open_for_reading(source)
    if not is_data_set(store):
        return {}
    table = read_table(store, scan_records(store), ["uid", "caption"])
    wanted = set(index.uid.tolist())
    pairs = zip(map(short_id, table["uid"].to_pylist()), table["caption"].to_pylist(), strict=True)
    return {uid: caption for uid, caption in pairs if uid in wanted and caption}


def _npy(rows: Rows) -> bytes:
    held = io.BytesIO()
    np.save(held, rows, allow_pickle=False)
    return held.getvalue()
