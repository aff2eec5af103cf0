"""The first recipes for somebody's own classes: `sixfold init`.

In: a class list, an image folder or shards; a folder of a text-to-image model, or none. Out: the text of a recipe for
generate, and of one for train, with a comment for each choice that a person may want to change. On disk: nothing; the
model's configs are read.

Size, batch, steps and guidance are what the model's own configs say, or what is usual for its family. The rest stands
at its default and is left out.
"""

import json
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.recipes.scalar import scalar
from gen.model.folder import HUB_ID_PATTERN, ModelError, ModelFolder, open_model, read_config
from gen.prompts.diversity import MOST_CUT
from gen.prompts.prompts import PromptSpec
from gen.prompts.too_long import NUM_PROMPTS, length_of_kind
from gen.sampler.spec import SamplerSpec, is_distilled, with_size
from gen.wording.contexts import fewest_contexts
from gen.wording.lexicon import load_lexicon
from shards.disk.address import file_path, is_remote, places_of
from shards.disk.home import home
from shards.disk.safe_text import one_line, quoted
from shards.labels.classes import Class
from shards.labels.sources import SHIPPED

# What is downloaded for a first run; the same as in recipes/imagenet-sd15-6x.yaml.
USUAL_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
USUAL_REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
USUAL_LICENCE = "creativeml-openrail-m"
USUAL_PX = 512
SAVED_PX = 256  # larger sides are stored smaller: classifiers are trained at 224 px
LARGE_PX, LARGE_VAE_BATCH = 1024, 4  # a decoder call of more such images has more values than short indices count
FOLDS = 6  # for which prompts without repeats are drawn
MAX_PROMPTS = 10_000
MAX_CARD_BYTES = 1 << 20
QUOTA = 16  # images of a domain in a step of a first training
PASSES = 30  # over the real images
TRAINED_PX = 224
SHARDS_IN_A_FOLD = 8  # so that several workers have work
MIN_SHARD, MAX_SHARD = 10, 1000  # images
# family -> steps and guidance that are usual for training data
USUAL_STEPS = {"sd": (30, 2.0), "sdxl": (30, 5.0), "sd3": (28, 4.5), "flux": (28, 3.5)}
KINDS_OF_PROMPTS: tuple[Literal["cd+sd", "template", "name"], ...] = ("cd+sd", "template", "name")  # the longest first
DISTILLED_STEPS = 4  # latent consistency models, FLUX schnell


@dataclass(frozen=True)
class Chosen:
    """The model of a first recipe and what its configs say."""

    model: str  # as the caller named it
    revision: str | None
    licence: str
    size_px: int
    steps: int
    guidance: float
    told: str  # where the numbers come from
    folder: Path | None = None  # where it lies, if it is here

    @property
    def batch(self) -> int:
        """Images per call: 32 at 512 px, in proportion to the pixels of one."""
        return max(1, min(64, 32 * USUAL_PX**2 // self.size_px**2))


def choose_model(model: str | None, revision: str | None = None) -> Chosen:
    """What the configs of a folder say; without a folder Stable Diffusion 1.5. Raises ModelError for another folder."""
    if model is None:
        steps, guidance = USUAL_STEPS["sd"]
        told = f"get the model with `hf download {USUAL_MODEL} --revision {USUAL_REVISION}`"
        return Chosen(USUAL_MODEL, USUAL_REVISION, USUAL_LICENCE, USUAL_PX, steps, guidance, told)
    if revision is None and HUB_ID_PATTERN.fullmatch(model) and not any(place.is_dir() for place in places_of(model)):
        raise ModelError(
            f"{quoted(model, 120)}: found no such folder, expected a diffusers pipeline; of a model of the hub give "
            "its commit too, with --revision"
        )
    folder = open_model(model, revision, None, home())
    size_px = with_size(SamplerSpec(model=str(folder.path)), folder).made_px
    steps, guidance = _steps_of(folder)
    return Chosen(
        model,
        revision,
        _licence_of(folder.path),
        size_px,
        steps,
        guidance,
        "size, steps and guidance are those of the model's configs and family",
        folder.path,
    )


@dataclass(frozen=True)
class ChosenKind:
    """The kind of prompts of a first recipe, and a line if that is not the usual one, or if the model cuts it."""

    kind: Literal["cd+sd", "template", "name"]
    told: str | None = None


def choose_kind(classes: list[Class], model: Path | None) -> ChosenKind:
    """The richest kind of which the model in the folder `model` reads nearly all prompts to their ends; the usual one
    where no model is."""
    if model is None:
        return ChosenKind(KINDS_OF_PROMPTS[0])
    usual = found = None
    for kind in KINDS_OF_PROMPTS:
        spec = PromptSpec(kind=kind, per_class=NUM_PROMPTS if kind == "cd+sd" else None)
        found = length_of_kind(spec, classes, model)
        usual = usual or found
        if found.num_cut <= MOST_CUT * found.num_seen:
            break
    assert usual is not None
    assert found is not None
    if found is usual:
        return ChosenKind(kind, None if found.line is None else f"prompts: {found.line}")
    rest = "" if found.line is None else f"; of these too {found.num_cut:,} of {found.num_seen:,} are longer"
    return ChosenKind(
        kind,
        f"prompts: kind {kind}, for {usual.num_cut:,} of {usual.num_seen:,} texts of kind {KINDS_OF_PROMPTS[0]} are "
        f"longer than the {usual.limit} tokens that the model's text encoder reads{rest}",
    )


def _steps_of(folder: ModelFolder) -> tuple[int, float]:
    denoiser = read_config(folder.path / ("unet" if folder.family in ("sd", "sdxl") else "transformer") / "config.json")
    if folder.family == "flux":
        return USUAL_STEPS["flux"] if denoiser.get("guidance_embeds") else (DISTILLED_STEPS, 0.0)
    if is_distilled(folder.family, denoiser):
        return DISTILLED_STEPS, 1.0
    steps, guidance = USUAL_STEPS[folder.family]
    # pictures of 64 px and below have few details to work out
    return (12, guidance) if with_size(SamplerSpec(model=str(folder.path)), folder).made_px <= 64 else (steps, guidance)


def _licence_of(folder: Path) -> str:
    """What the front matter of the model's card says; `unknown` without one."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > MAX_CARD_BYTES:
        return "unknown"
    found = re.search(r"^licen[sc]e:[ \t]*([\w.+-]{1,100})[ \t]*$", card.read_text("utf-8", "replace")[:20_000], re.M)
    return found[1] if found else "unknown"


def name_of(source: str) -> str:
    """The name of a recipe for a source: lower-case letters, digits and dashes."""
    last = source.rstrip("/").rpartition("/")[2].rpartition("\\")[2]
    stem = last if Path(source).is_dir() else last.partition(".")[0]
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60] or "my-classes"


def path_from(place: str, folder: Path) -> str:
    """How a recipe in `folder` names a place of the caller: relative if it lies below, else as a whole path. What is no
    path, or ships with sixfold, keeps its name."""
    if place in SHIPPED or is_remote(place) or not file_path(place).exists():
        return place
    there, here = file_path(place).absolute(), folder.absolute()
    return there.relative_to(here).as_posix() if there.is_relative_to(here) else str(there)


def schema_from(folder: Path, kind: str) -> str:
    """Where an editor finds the schema of a kind of recipe in `folder`."""
    schema = home() / "recipes" / "schema" / f"{kind}.json"
    return os.path.relpath(schema, folder) if folder.resolve().is_relative_to(home()) else str(schema)


def first_recipe(
    name: str,
    source: str,
    classes: list[Class],
    per_class: int | None,
    model: Chosen,
    model_place: str,
    schema: str,
    kind: ChosenKind,
) -> str:
    """The text of the recipe. `source` and `model_place` are named as from the recipe's folder; `per_class`: images of
    each class in one fold, where the source does not say how many there are."""
    total = sum(one.count for one in classes)
    lexicon = load_lexicon(PromptSpec.model_fields["lexicon"].default)
    prompts = min(MAX_PROMPTS, FOLDS * max(one.count for one in classes), fewest_contexts(classes, lexicon))
    num_shards = max(1, min(SHARDS_IN_A_FOLD, total // MIN_SHARD), -(-total // MAX_SHARD))
    shard = max(MIN_SHARD, -(-total // num_shards))  # rounded up: no crumbs in one shard more
    real = "" if per_class else f" with {_range(classes)} real images each"
    is_known = model.licence != "unknown"
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# {len(classes):,} {'class' if len(classes) == 1 else 'classes'} of {one_line(source, 80)}{real}: 1x makes "
        f"{total:,} images, 6x {6 * total:,}.",
        "#",
        f"# What it would make and take, before anything is made: sixfold generate {name}.yaml --scale 1x --dry-run",
        "# All fields: the schema above; an editor that reads YAML schemas shows and checks them",
        f"name: {scalar(name)}",
        _line("seed", 0, "another seed makes another data set"),
        "classes:",
        f"  source: {scalar(source)}",
        *([_line("  per_class", per_class, "real images of each class: 1x makes as many")] if per_class else []),
        *_meanings(classes),
        "prompts:",
        *_prompts(kind, prompts),
        "sampler:",
        f"  # {model.told}",
        f"  model: {scalar(model_place)}",
        *([f"  revision: {scalar(model.revision)}"] if model.revision else []),
        _line(
            "  licence",
            scalar(model.licence),
            "" if is_known else "write the model's before you generate: exports leave unknown ones out",
        ),
        _line("  steps", model.steps, "denoising steps"),
        _line("  guidance", f"{model.guidance:g}", "low values give varied images, high ones follow the text"),
        _line("  size_px", model.size_px, "the side that the model was trained for"),
        *([_line("  saved_px", SAVED_PX, "images are stored at this side")] if model.size_px > SAVED_PX else []),
        _line("  batch", model.batch, "images per call; lower it if memory is short"),
        *([_line("  vae_batch", LARGE_VAE_BATCH, "images per decoder call")] if model.size_px >= LARGE_PX else []),
        "shards:",
        _line("  samples_per_shard", shard, "a killed worker loses at most one shard"),
    ]
    return "\n".join(lines) + "\n"


def first_training(name: str, source: str, ids: str | None, classes: list[Class], side_px: int, schema: str) -> str:
    """The text of a training recipe for the real images in `source` and the synthetic ones of the recipe `name`.

    `ids`: the class list whose ids class folders and labels have; None: their own. `side_px`: of the
    synthetic images. Only this text is of a training, whose fields `train.recipe` has.
    """
    total = sum(one.count for one in classes)
    quota = min(QUOTA, total)
    steps = max(300, min(20_000, PASSES * total // quota))
    lines = [
        f"# yaml-language-server: $schema={schema}",
        f"# A classifier on the {total:,} real images of {one_line(source, 80)} and on synthetic ones.",
        "#",
        f"# Before  sixfold generate {name}.yaml",
        f"# Run     sixfold train {name}-train.yaml",
        "# All fields: the schema above; an editor that reads YAML schemas shows and checks them",
        f"name: {scalar(f'{name}-train')}",
        "model:",
        _line("  name", "resnet18", "any model of timm"),
        f"  num_classes: {max(one.id for one in classes) + 1}",
        _line("  aux", "bn", "synthetic images have batch normalisation of their own; none: for ViT, ConvNeXt"),
        "  # pretrained: FOLDER      # of weights to start from; or a hub id beside pretrained_revision",
        "data:",
        *([_line("  classes", scalar(ids), "whose ids the class folders and labels have")] if ids else []),
        "  domains:",
        f"    - {{name: real, source: {scalar(source)}, quota: {quota}}}",
        f"    - {{name: synthetic, source: {scalar(f'out/{name}')}, quota: {quota}}}   # a part of it: subset: 3x",
        _line("  size_px", min(TRAINED_PX, side_px), "side of the pictures that the model sees"),
        "optim:",
        "  lr: 0.001",
        f"  warmup_steps: {steps // 20}",
        _line("  lam", 1.0, "weight of the synthetic images"),
        "  ema_decay: 0.99",
        "schedule:",
        _line("  steps", steps, f"of {quota} real and {quota} synthetic images"),
        f"  epoch_steps: {steps // 10}",
        "  # groups: 8              # of several processes a multiple of their number: a step grows with it",
        "# engine: {kind: ddp}       # of several GPUs, here (--ranks 8) or on a cluster; single is one process",
        "# evaluate:                 # pictures that are not trained on, in folders of the same classes",
        "#   validation: {source: FOLDER}",
        "#   tests: {test: {source: FOLDER}}",
    ]
    return "\n".join(lines) + "\n"


def _prompts(kind: ChosenKind, count: int) -> list[str]:
    if kind.kind != "cd+sd":
        told = "plain sentences" if kind.kind == "template" else "the bare name"
        return [_line("  kind", kind.kind, f"{told}: the model's text encoder reads no longer ones (cd+sd: contexts)")]
    return [
        _line("  kind", "cd+sd", "varied contexts, a part of them in an artistic style; template: plain sentences"),
        _line("  per_class", count, "texts of each class: enough that none repeats up to 6x"),
        _line("  style_share", 0.5, "of the texts, those with a style"),
    ]


def _line(key: str, value: object, comment: str) -> str:
    text = f"{key}: {value}"
    return f"{text:<27} # {comment}" if comment else text


def _range(classes: list[Class]) -> str:
    low, high = min(one.count for one in classes), max(one.count for one in classes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _meanings(classes: list[Class]) -> list[str]:
    """How the sense of each name is chosen, and how a person says it."""
    name = next((one.name for one in classes if not one.meaning), None)
    if name is None:
        return []  # the list says all
    if all(one.wordnet_id or one.meaning for one in classes):
        return ["meanings:", _line("  choose", "clip", "a WordNet id has one sense")]
    example = json.dumps({name: f"{name}, the ..."}, ensure_ascii=False)
    return [
        "# Which sense of a name is meant? Bare names leave it to the generator. Write it by hand:",
        f"# meanings: {{choose: given, given: {example}}}",
        "# (or in a column `meaning` of a CSV list), or let a CLIP choose by your real images:",
        "# meanings: {choose: clip, real: FOLDER, clip: {model: FOLDER}}",
    ]
