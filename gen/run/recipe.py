"""The recipe of a generated data set: one frozen model made of the parts that live beside their owners.

In: a YAML file and `key.sub=value` overrides. Out: `Recipe`; its identity, which is everything that decides what the
images are; its plan, and the job of its workers. `cluster` (how the work is spread) and `expect` are no part of the
identity: any number of workers may make one data set.
"""

import contextlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.fan_out.work import FanOutSpec
from cluster.recipes.folder import changes
from cluster.recipes.load import load_recipe
from cluster.recipes.mistake import RecipeError
from gen.llm.local import language_folder, pinned
from gen.llm.spec import LlmSpec
from gen.make.plan import Plan
from gen.make.refill import ShardSpec, UnitJob
from gen.make.screen import ScreenSpec
from gen.model.clip import clip_digest, clip_folder
from gen.model.folder import ModelFolder, open_model
from gen.model.style_token import open_style_token, token_digest
from gen.prompts.meanings import MeaningSpec, given_meanings, refuse_strangers
from gen.prompts.prompts import PromptSpec
from gen.prompts.real_images import content_of
from gen.prompts.table import PromptTable
from gen.sampler.spec import PLACES, SamplerSpec, check_sampler, is_guided, model_places, sampler_digest
from gen.sampler.text_to_image import TextToImageJob
from gen.wording.lexicon import SHIPPED, load_lexicon
from shards.disk.address import file_path, is_remote, places_of
from shards.disk.home import home
from shards.disk.regular import file_content
from shards.disk.safe_text import quoted
from shards.labels.classes import Class, ClassSpec, load_classes, whole_list
from shards.labels.task import TASKS, read_task

# Libraries whose version decides the bytes of an image.
DECIDING_LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "simplejpeg", "pyarrow")
# Fields of a language model that decide what it says; the others say how it is reached and how patiently.
DECIDING_LLM_FIELDS = {"provider", "model", "revision", "temperature", "top_p", "max_tokens"}
# Fields of the sampler that change no image: where it runs, and what lies in memory meanwhile.
RUNNING_FIELDS = {"device", "offload_text"}
# Of prompts and sampler: older runs know no such fields, so an identity without a token has none.
STYLE_FIELDS = ("style_token", "style_rows", "style_form")


class Expect(BaseModel):
    """What the author of a recipe expects; for estimates before a run, never for its images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_s: float = Field(gt=0, description="of one worker, images written")


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$", description="lower-case letters, digits, dashes")
    seed: int = Field(0, ge=0, lt=2**63, description="run seed; another seed is another data set")
    classes: ClassSpec
    meanings: MeaningSpec = MeaningSpec()
    llm: LlmSpec = LlmSpec()
    prompts: PromptSpec
    sampler: SamplerSpec
    screen: ScreenSpec = Field(default_factory=ScreenSpec)
    shards: ShardSpec = Field(default_factory=ShardSpec)
    cluster: FanOutSpec = FanOutSpec()
    expect: Expect | None = None

    @model_validator(mode="before")
    @classmethod
    def _task_has_its_templates(cls, given: Any) -> Any:
        """`prompts.templates` of a shipped task's class list are its own, unless the recipe has others."""
        classes, prompts = (given.get(part) if isinstance(given, Mapping) else None for part in ("classes", "prompts"))
        if not isinstance(classes, Mapping) or not isinstance(prompts, Mapping) or classes.get("source") not in TASKS:
            return given
        if prompts.get("kind", "template") != "template" or prompts.get("templates") or prompts.get("file"):
            return given
        return {**given, "prompts": {**prompts, "templates": list(read_task(classes["source"]).templates)}}

    @model_validator(mode="before")
    @classmethod
    def _sampler_knows_the_style_token(cls, given: Any) -> Any:
        """What puts a word into prompts also puts it into the model."""
        prompts, sampler = (given.get(part) if isinstance(given, Mapping) else None for part in ("prompts", "sampler"))
        if not isinstance(prompts, Mapping) or not isinstance(sampler, Mapping):
            return given
        token = prompts.get("style_token")
        said = {} if token is None else {"style_token": token, "style_rows": prompts.get("style_rows", "learned")}
        left_open = {name: value for name, value in said.items() if sampler.get(name) is None}
        return {**given, "sampler": {**sampler, **left_open}}

    @model_validator(mode="after")
    def _style_token_is_that_of_the_prompts(self) -> "Recipe":
        rows = None if self.prompts.style_token is None else self.prompts.style_rows
        for name, said in (("style_token", self.prompts.style_token), ("style_rows", rows)):
            if (found := getattr(self.sampler, name)) != said:
                raise ValueError(
                    f"sampler.{name}: found {quoted(str(found), 80)}, expected what prompts say, which fill it in; "
                    f"remove it, and set prompts.{name}"
                )
        return self

    @model_validator(mode="after")
    def _negative_is_looked_at(self) -> "Recipe":
        if self.prompts.negative and self.sampler.guidance <= 1:
            raise ValueError(
                f"prompts.negative: has no effect at guidance {self.sampler.guidance:g}; set sampler.guidance above 1 "
                "or remove the negative text"
            )
        return self

    @model_validator(mode="after")
    def _threads_fit_cores(self) -> "Recipe":
        if self.sampler.threads > self.cluster.cpus_per_worker:
            raise ValueError(
                f"sampler.threads: found {self.sampler.threads} with {self.cluster.cpus_per_worker} cores a worker, "
                "expected at most as many; raise cluster.cpus_per_worker"
            )
        return self


def read_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """Raises RecipeError (a ValueError) with one line for the person who wrote it."""
    return load_recipe(path, Recipe, overrides)


def identity(recipe: Recipe) -> dict[str, Any]:
    """What the images depend on, as plain JSON: recipe without `cluster` and `expect`, digests, versions.

    A file that the recipe names stands here by its content, not by its path.
    """
    chosen = recipe.model_dump(mode="json", exclude={"cluster", "expect", "llm"})
    asked = DECIDING_LLM_FIELDS | ({"extra"} if recipe.llm.extra else set())  # older runs know no such field
    chosen["llm"] = recipe.llm.model_dump(mode="json", include=asked)
    chosen["prompts"]["file"] = file_content(recipe.prompts.file)
    if recipe.prompts.style_token is None:
        for part in ("prompts", "sampler"):
            for name in STYLE_FIELDS:
                chosen[part].pop(name, None)
    else:
        chosen["prompts"]["style_token"] = token_digest(
            open_style_token(recipe.prompts.style_token), recipe.prompts.style_rows
        )
    if recipe.prompts.lexicon not in SHIPPED:
        chosen["prompts"]["lexicon"] = file_content(recipe.prompts.lexicon)
    chosen["meanings"]["overrides"] = file_content(recipe.meanings.overrides)
    chosen["model_digest"] = sampler_digest(recipe.sampler)
    libraries = (*DECIDING_LIBRARIES, *(["torchao"] if recipe.sampler.quantise is not None else []))
    chosen["versions"] = {name: importlib.metadata.version(name) for name in libraries}
    return chosen


def changes_of(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    contents: Mapping[str, str] = {},
    model: type[BaseModel] = Recipe,
) -> list[str]:
    """A line for each difference between two identities. What moved is the same: a path counts only where its content
    changed. So is what the prompts were drawn from and is no longer there: the run keeps its prompts.

    `contents`: what `drawn_from` said when the run of `before` began; `model`: of both.
    """
    kept = {part: dict(before[part]) for part in ("sampler", "meanings", "prompts", "llm") if part in before}
    unseen = RUNNING_FIELDS | ({*PLACES} if before["model_digest"] == now["model_digest"] else set())
    kept["sampler"] |= {name: now["sampler"][name] for name in unseen if name in now["sampler"]}
    if before["class_list"] == now["class_list"]:  # the classes and their counts, however the recipe came by them
        kept["classes"] = now["classes"]
    for part, name in (("prompts", "file"), ("prompts", "lexicon"), ("meanings", "overrides")):
        if _is_gone(kept.get(part, {}).get(name), now[part][name]):
            kept[part][name] = now[part][name]
    if kept.get("meanings") and kept["meanings"].get("clip") and now["meanings"]["clip"]:
        running = {name: now["meanings"]["clip"][name] for name in ("device", "batch")}
        kept["meanings"]["clip"] = {**kept["meanings"]["clip"], **running}
    if contents and (kept["meanings"] != now["meanings"] or kept.get("llm", now["llm"]) != now["llm"]):
        found = drawn_from(MeaningSpec.model_validate(now["meanings"]), LlmSpec.model_validate(now["llm"]))
        if found.get("real") == contents.get("real"):
            kept["meanings"]["real"] = now["meanings"]["real"]
        clip, clip_now = kept["meanings"]["clip"], now["meanings"]["clip"]
        if clip and clip_now and found.get("clip") == contents.get("clip"):
            kept["meanings"]["clip"] = {**clip, **{name: clip_now[name] for name in ("model", "revision")}}
        if "llm" in kept and "llm" in found and found["llm"] == contents.get("llm"):
            kept["llm"]["model"] = now["llm"]["model"]
    return changes({**before, **kept}, now, model)


def _is_gone(before: str | None, now: str | None) -> bool:
    """Whether a recipe names a file that is not here, where a run began with one (`file_content`)."""
    return _is_hash(before) and now is not None and now not in SHIPPED and not _is_hash(now)


def _is_hash(text: str | None) -> bool:
    return text is not None and re.fullmatch("[0-9a-f]{64}", text) is not None


def drawn_from(meanings: MeaningSpec, llm: LlmSpec) -> dict[str, str]:
    """Hashes of the real images and of the CLIP that chose the meanings, and of the folder of a language model; one
    that cannot be read has none."""
    found = {}
    with contextlib.suppress(ValueError, OSError):
        if meanings.real is not None:
            found["real"] = content_of(meanings.real, meanings.subset)
    with contextlib.suppress(ValueError, OSError):
        if meanings.clip is not None:
            found["clip"] = clip_digest(meanings.clip)
    with contextlib.suppress(ValueError, OSError):
        if llm.provider == "transformers" and llm.revision is None:
            found["llm"] = pinned(llm, language_folder(llm))
    return found


def usable_classes(recipe: Recipe, has_prompts: bool) -> list[Class]:
    """The recipe's classes. Raises RecipeError, a line for each thing that the recipe names and that cannot be used.

    `has_prompts`: the output has its prompts; then nobody asks for what they were drawn from.
    """
    classes, lines = look_up(recipe, has_prompts)
    if lines:
        raise RecipeError.of(lines)
    return classes


def look_up(recipe: Recipe, has_prompts: bool) -> tuple[list[Class], list[str]]:
    """The recipe's classes, none if they cannot be read; and a line for each thing that it names and that cannot be
    used. `has_prompts` as for `usable_classes`."""
    classes: list[Class] = []
    checks: list[Callable[[], object]] = [
        lambda: classes.extend(load_classes(recipe.classes)),
        lambda: check_negatives(recipe, check_sampler(recipe.sampler)),
    ]
    if has_prompts:
        pass
    elif recipe.prompts.file is not None:
        checks.append(lambda: _check_file(recipe.prompts.file))
    else:
        checks += _checks_of_texts(recipe, classes)
    return classes, _refused(checks)


def missing_of(part: Recipe, has_prompts: bool = False) -> list[str]:
    """The lines of `look_up` about the sound part of a recipe with mistakes; what cannot be looked up is left out."""
    classes: list[Class] = []

    def of_model() -> None:
        open_model(part.sampler.model, part.sampler.revision, part.sampler.variant, home())

    checks: list[Callable[[], object]] = [lambda: classes.extend(load_classes(part.classes)), of_model]
    has_file = getattr(getattr(part, "prompts", None), "file", None) is not None
    if has_file:
        checks.append(lambda: _check_file(part.prompts.file))
    elif not has_prompts:
        checks += _checks_of_texts(part, classes)
    return _refused(checks, AttributeError)


def check_given(recipe: Recipe, classes: Sequence[Class]) -> None:
    """Raises ValueError for senses by hand that cannot be used; `classes`: the recipe's, cut at its limit."""
    spec = recipe.meanings
    whole = whole_list(recipe.classes, classes) if spec.given or spec.overrides else classes
    refuse_strangers(whole, spec)
    given_meanings(whole, spec)


def _check_file(file: str | None) -> None:
    if file is not None and not file_path(file).is_file():
        raise ValueError(f"prompts.file: found no file {quoted(file, 120)}; write it with `sixfold prompts`")


def _checks_of_texts(recipe: Recipe, classes: list[Class]) -> list[Callable[[], object]]:
    """Of all that prompts are drawn from; `classes` are there when they are called."""
    return [
        lambda: load_lexicon(recipe.prompts.lexicon),
        lambda: check_given(recipe, classes) if classes else None,
        lambda: _check_real(recipe.meanings),
        lambda: clip_folder(recipe.meanings.clip) if recipe.meanings.clip is not None else None,
    ]


def _refused(checks: Sequence[Callable[[], object]], passed_over: type[Exception] | tuple[()] = ()) -> list[str]:
    """What the checks say, a line each; those that raise `passed_over` say nothing."""
    lines = []
    for check in checks:
        try:
            check()
        except passed_over:
            continue
        except ValueError as error:
            lines.append(" ".join(str(error).split()))
    return lines


def _check_real(spec: MeaningSpec) -> None:
    if spec.real is None or is_remote(spec.real) or any(place.is_dir() for place in places_of(spec.real)):
        return
    raise ValueError(f"meanings.real: found no folder {quoted(spec.real, 120)}; check the path")


def check_negatives(recipe: Recipe, model: ModelFolder) -> None:
    """Raises ValueError for a negative text that the model would never look at."""
    if is_guided(recipe.sampler, model):
        return
    file, spec = recipe.prompts.file, recipe.sampler
    if file is not None and not file_path(file).is_file():
        return  # the prompts of a run that has them are as it began
    if ({recipe.prompts.negative} if file is None else PromptTable.load(file_path(file)).negatives()) - {""}:
        raise ValueError(
            f"{'prompts.negative' if file is None else file}: a negative text has no effect with model {spec.model} at "
            f"guidance {spec.guidance:g}; leave it empty, or set sampler.guidance above 1 (FLUX takes none)"
        )


def sizes_of(recipe: Recipe, classes: Sequence[Class]) -> Plan:
    """The plan as far as sizes go, with one prompt a class: prompts do not decide how many samples a shard has."""
    return Plan(
        {one.id: one.count for one in classes},
        dict.fromkeys((one.id for one in classes), 1),
        recipe.seed,
        recipe.shards.samples_per_shard,
        recipe.shards.max_draws,
    )


def job_of(
    recipe: Recipe,
    classes: Sequence[Class],
    url: str,
    single_writer: bool,
    mark: str,
    code: str,
    identified: Mapping[str, Any],
) -> TextToImageJob:
    """What workers are given. `mark` is the run's fingerprint, `code` the code hash, `identified` its identity.

    Images are made by the folders that `recipe` names now; their rows name them as the run began.
    """
    begun = identified["sampler"]
    return TextToImageJob(
        unit=UnitJob(
            out=url,
            single_writer=single_writer,
            fingerprint=mark,
            screen=recipe.screen,
            shards=recipe.shards,
            extra={"code": code, **identified["versions"]},
        ),
        num_per_class={one.id: one.count for one in classes},
        seed=recipe.seed,
        sampler=recipe.sampler.model_copy(update={name: begun[name] for name in PLACES if name in begun}),
        model_places=model_places(recipe.sampler),
        model_digest=identified["model_digest"],
    )
