"""The recipe of a training: one frozen model made of the parts that live beside their owners.

In: a YAML file and `key.sub=value` overrides (`cluster.recipes.load.load_recipe`). Out: `TrainRecipe`, and the part of
it that must not change if a training is continued. On disk: nothing.
"""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.recipes.folder import refuse_other
from cluster.recipes.load import fingerprint
from cluster.recipes.mistake import mistakes
from cluster.recipes.site import SiteSpec
from gen.invert.spec import InvertSpec, by_content, pinned_generator
from shards.stream.mix import MixSpec
from shards.stream.spec import StreamSpec
from train.evaluate.evaluate import EvaluateSpec
from train.model.classifiers import ModelSpec, normalisation_of, pinned, shares_statistics
from train.model.clip import ClipTrainSpec, pinned_clip
from train.model.engine import EngineSpec
from train.model.normalisation import IMAGENET
from train.model.optim import OptimSpec
from train.stage import STAGE_PARTS, ScheduleSpec, StageData, StageModel, StageSpec

TaskName = Literal["classify", "clip", "invert"]  # the keys of train.run.TASKS
# the part of a recipe that says what its Task trains
SECTIONS: dict[TaskName, str] = {"classify": "model", "clip": "clip", "invert": "invert"}
# what writes into that part which weights it starts from
PINNED: dict[TaskName, Callable[[Any], BaseModel]] = {
    "classify": pinned,
    "clip": pinned_clip,
    "invert": pinned_generator,
}

# How the work is done, for how long it is kept and shown: none of it decides what comes out, but for the precision and,
# in some recipes, the micro-batches (`_engine`). What `classes` gives, the labels, is in the digests of the data.
_FREE: Any = {
    "engine": True,
    "cluster": True,
    "checkpoint": True,
    "log": True,
    "data": {"threads", "prefetch_steps", "deadline_s", "cache", "verify", "check_names", "classes"},
    "evaluate": {"validation": {"views"}, "tests": {"__all__": {"views"}}},
}
# Fields that came after the first results: at these values they are left out of digests, so that a run of before keeps
# its name and is not trained again.
_LATER: dict[tuple[str, ...], Any] = {
    ("task",): "classify",
    ("before",): [],
    ("model", "head"): "by_size",
    ("model", "freeze"): [],
    ("optim", "lr_backbone"): 1.0,
    ("invert",): None,
    ("cluster",): {"site": None},
    ("clip",): None,
    ("model", "mean"): None,
    ("model", "std"): None,
    ("model", "pretrained_revision"): None,
    ("model", "pretrained_sha256"): None,
    ("optim", "betas"): None,
    ("optim", "lr_end"): 0.0,
    ("optim", "warmup"): "before",
    ("engine",): {"dtype": "fp32"},
    ("engine", "accumulate"): 1,
    ("data", "verify"): "first",
    ("data", "classes"): None,
    ("evaluate", "leep"): False,
    ("data", "augment", "resize"): "bilinear",
    ("data", "augment", "hue"): 0.0,
    ("data", "augment", "jitter_chance"): 1.0,
    ("data", "augment", "grey"): 0.0,
    ("data", "augment", "blur"): 0.0,
    ("data", "augment", "blur_px"): [0.1, 2.0],
    ("data", "augment", "solarize"): 0.0,
}
# Optimisers that move weights otherwise than they once did: a run of before is another run.
_MOVES = {"lamb": "lamb without a largest norm of its own"}
MAX_STEP_IMAGES = 1 << 20  # published steps of CLIP have 160,000; what is typed by mistake would fill the memory


class CheckpointSpec(BaseModel):
    """How often the training is saved; it also is at its end and when it is asked to stop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_min: float = Field(10.0, gt=0, description="minutes between two checkpoints")
    keep: int = Field(2, ge=1, le=100, description="complete ones on disk")


class NanSpec(BaseModel):
    """What to do about a loss or a gradient that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Literal["stop", "skip"] = Field("stop", description="skip: the step changes nothing and is counted")
    most: int = Field(10, ge=1, description="skipped steps in a row that are borne")


class ClusterSpec(BaseModel):
    """Where a training runs, if it is submitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: SiteSpec | None = Field(
        None,
        description="for `sixfold submit`: what jobs of a SLURM site need, over what ~/.config/sixfold/site.yaml says",
        examples=[{"partition": "gpu", "nodes": 2, "gpus_per_node": 8}],
    )


class TrainRecipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,79}$", description="lower-case letters, digits, dashes")
    seed: int = Field(0, ge=0, lt=2**63, description="of initial weights, order, augmentation and dropout")
    task: TaskName = Field("classify", description="what is trained; see train/task")
    model: ModelSpec | None = Field(None, description="of task classify, which needs it")
    clip: ClipTrainSpec | None = Field(
        None, description="of task clip, which needs it", examples=[{"model": "sandbox/models/clip", "tune": "lora"}]
    )
    invert: InvertSpec | None = Field(None, description="of task invert, which needs it")
    data: StreamSpec
    optim: OptimSpec
    schedule: ScheduleSpec
    engine: EngineSpec = Field(default_factory=lambda: EngineSpec(kind="single"))
    cluster: ClusterSpec = ClusterSpec()
    checkpoint: CheckpointSpec = Field(default_factory=lambda: CheckpointSpec(every_min=10.0))
    nan: NanSpec = Field(default_factory=lambda: NanSpec(policy="stop"))
    evaluate: EvaluateSpec = Field(default_factory=lambda: EvaluateSpec(every_epochs=1))
    log: Literal["tensorboard", "wandb", "none"] = Field("tensorboard", description="beside log.jsonl")
    before: tuple[StageSpec, ...] = Field(
        (),
        max_length=9,
        description="trainings that come first, in this order; each starts from the weights of the one before, the "
        "first from model.pretrained, with a fresh optimiser and average; model.head says how a classifier is taken "
        "over",
        examples=[[{"name": "synthetic", "schedule": {"steps": 450, "epoch_steps": 150}}]],
    )

    @property
    def earlier(self) -> dict[str, "TrainRecipe"]:
        """Name -> recipe of each stage before the last; all start from `model.pretrained`, until it is known where the
        stage before has left its weights."""
        found = {}
        for number, stage in enumerate(self.before):
            whole = stage.over({**self.model_dump(mode="json"), "before": []})
            try:
                found[stage.name] = TrainRecipe.model_validate(whole)
            except ValidationError as invalid:
                _, line = mistakes(invalid, TrainRecipe, whole)[0]
                raise ValueError(f"before.{number}: {line}") from None
        return found

    @property
    def quotas(self) -> tuple[int, ...]:
        return tuple(domain.quota for domain in self.data.domains)

    @property
    def classifier(self) -> ModelSpec:
        """The model of a recipe that classifies."""
        assert self.model is not None
        return self.model

    @model_validator(mode="after")
    def _has_what_its_task_trains(self) -> "TrainRecipe":
        for task, section in SECTIONS.items():
            if (getattr(self, section) is not None) != (task == self.task):
                found, wanted = ("none", "one") if task == self.task else ("one", "none")
                raise ValueError(
                    f"{section}: found {found} with task {self.task}, expected {wanted}; change {section} or task"
                )
        return self

    @model_validator(mode="after")
    def _stages_are_trainings(self) -> "TrainRecipe":
        if self.before and self.task != "classify":
            raise ValueError(
                f"before: found stages with task {self.task}, expected none: only weights of classify are handed over"
            )
        names = [stage.name for stage in self.before]
        if not names:
            return self
        try:
            TrainRecipe.model_validate({**self.model_dump(mode="json", exclude={"before"}), "before": []})
        except ValidationError:  # the recipe's own mistakes are told without those of stages that inherit them
            return self
        if len(self.earlier) != len(names):
            raise ValueError("before: found two stages of one name, expected a name for each; it is that of its folder")
        return self

    @model_validator(mode="after")
    def _inverts_one_domain(self) -> "TrainRecipe":
        if self.invert is not None and (len(self.data.domains) > 1 or self.data.mix != MixSpec()):
            found = "mixed pictures" if len(self.data.domains) == 1 else f"{len(self.data.domains)} domains"
            raise ValueError(f"data: found {found} with task invert, expected one domain, unmixed; leave out the rest")
        return self

    @model_validator(mode="after")
    def _sets_have_names_of_their_own(self) -> "TrainRecipe":
        for domain in self.data.domains:
            if domain.name in self.evaluate.tests:
                raise ValueError(
                    f"evaluate.tests.{domain.name}: found a test set with the name of a domain, expected another: "
                    f"results tell data apart by these names; call it {domain.name}-test, for example"
                )
        return self

    @model_validator(mode="after")
    def _leep_has_weights(self) -> "TrainRecipe":
        if not self.evaluate.leep:
            return self
        if self.before:
            raise ValueError("evaluate.leep: found it with stages, which are measured in any case; leave it out")
        if self.model is None or self.model.pretrained is None:
            found = "no model.pretrained" if self.model is not None else f"task {self.task}"
            raise ValueError(
                f"evaluate.leep: found it with {found}, expected trained weights of a classifier; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainRecipe":
        if self.optim.warmup_steps >= self.schedule.steps:
            raise ValueError(
                f"optim.warmup_steps: found {self.optim.warmup_steps}, expected fewer than schedule.steps = "
                f"{self.schedule.steps}; lower optim.warmup_steps or raise schedule.steps"
            )
        return self

    @model_validator(mode="after")
    def _steps_are_bounded(self) -> "TrainRecipe":
        step_images = self.schedule.groups * sum(self.quotas)
        if step_images > MAX_STEP_IMAGES:
            raise ValueError(
                f"schedule.groups: found {self.schedule.groups:,} groups of {sum(self.quotas):,} images, expected "
                f"steps of at most {MAX_STEP_IMAGES:,}; lower it or the quotas"
            )
        return self

    @model_validator(mode="after")
    def _micro_batches_are_whole_groups(self) -> "TrainRecipe":
        groups, count = self.schedule.groups, self.engine.accumulate
        if groups % count:
            raise ValueError(
                f"engine.accumulate: found {count} micro-batches for schedule.groups = {groups:,}, expected a number "
                "that divides the groups of a step; change one of the two"
            )
        return self

    @model_validator(mode="after")
    def _lamb_sees_whole_parameters(self) -> "TrainRecipe":
        if self.engine.zero and self.optim.optimizer == "lamb":
            raise ValueError(
                f"engine.zero: found {self.engine.zero} with lamb, whose rates need whole parameters, expected 0; set "
                "engine.zero=0, or use adamw"
            )
        return self

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> "TrainRecipe":
        if self.clip is None or self.clip.tune != "flyp":
            return self
        if self.engine.accumulate > 1:
            raise ValueError(
                f"engine.accumulate: found {self.engine.accumulate} with clip.tune: flyp, whose loss compares all "
                "pictures of a step, expected 1; lower schedule.groups, or take more ranks"
            )
        if self.data.mix.is_on:
            raise ValueError(
                "data.mix: found mixed pictures with clip.tune: flyp, expected none, for they have no caption; set "
                "both alphas to 0"
            )
        return self

    @model_validator(mode="after")
    def _features_are_taken_of_all_pictures(self) -> "TrainRecipe":
        grows = [domain.name for domain in self.data.domains if domain.grow]
        if grows and self.clip is not None and (self.clip.tune == "probe" or self.clip.probe is not None):
            raise ValueError(
                f"data.domains: found grow: true of {grows[0]} with a linear probe, whose features are taken once, "
                "expected false; start when all pictures are there"
            )
        return self

    @model_validator(mode="after")
    def _real_comes_first(self) -> "TrainRecipe":
        is_first_apart = self.optim.loss != "pooled" or (self.model is not None and self.model.aux != "none")
        if is_first_apart and len(self.data.domains) > 1 and self.data.domains[0].name != "real":
            raise ValueError(
                f"data.domains: found {self.data.domains[0].name} first, expected real: the first domain is the one "
                "that lam does not weigh and the main statistics see"
            )
        return self


def check_ranks(recipe: TrainRecipe, ranks: int) -> None:
    """Raises ValueError for a recipe that so many processes cannot share."""
    if ranks > 1 and recipe.engine.kind == "single":
        raise ValueError(
            f"engine.kind: found single with {ranks} processes, expected one; set engine.kind: ddp or deepspeed"
        )
    if recipe.schedule.groups % ranks:
        raise ValueError(
            f"schedule.groups: found {recipe.schedule.groups} groups for {ranks} ranks, expected a multiple of the "
            "ranks; change one of the two"
        )
    share, count = recipe.schedule.groups // ranks, recipe.engine.accumulate
    if share % count:
        raise ValueError(
            f"engine.accumulate: found {count} micro-batches for the {share:,} groups of each of {ranks} ranks, "
            "expected a number that divides them; change engine.accumulate, schedule.groups or the ranks"
        )


def with_pinned_weights(recipe: TrainRecipe) -> TrainRecipe:
    """The recipe as a training keeps it: see `train.model.classifiers.pinned`. Raises ValueError as that does."""
    section = SECTIONS[recipe.task]
    return recipe.model_copy(update={section: PINNED[recipe.task](getattr(recipe, section))})


def deciding(recipe: TrainRecipe) -> dict[str, Any]:
    """The part that must stay as it is for a checkpoint to be gone on with. Raises ValueError for trained weights that
    are not there, unless the recipe holds their hash."""
    chosen = _without_sources(_by_content(recipe))
    if recipe.model is None:
        return chosen
    # what the pictures are normalised with, wherever that is said; versions that did not write it down took ImageNet's
    normal = normalisation_of(recipe.classifier)
    for name, value, imagenet in (("mean", normal.mean, IMAGENET.mean), ("std", normal.std, IMAGENET.std)):
        if value == imagenet:
            del chosen["model"][name]
        else:
            chosen["model"][name] = list(value)
    return chosen


def refuse_changed(before: TrainRecipe, now: TrainRecipe, where: str) -> None:
    """Raises ValueError with the list of differences if the training in the folder `where` began with a recipe that
    decides otherwise."""
    # pictures of one model are normalised alike, and timm need not be loaded to say how
    if before.model is not None and before.model == now.model:
        refuse_other(_but_model(before), _but_model(now), TrainRecipe, where, "training")
    else:
        refuse_other(deciding(before), deciding(now), TrainRecipe, where, "training")


def _but_model(recipe: TrainRecipe) -> dict[str, Any]:
    """`deciding` without the model."""
    chosen = recipe.model_dump(mode="json", exclude={**_FREE, "model": True, "before": True})
    return _without_sources({**chosen, "engine": _engine(recipe), "before": _stages(recipe)})


def _engine(recipe: TrainRecipe) -> dict[str, Any]:
    """What of the engine changes numbers by more than rounding, whatever else the recipe asks for.

    Micro-batches and ranks together change batch statistics that are not those of a group. Ranks are in no recipe, and
    four with two micro-batches go on as eight with one. So a training that goes on compares what comes of both
    (`RunState.bn_groups`) and says what differs; micro-batches alone are in the digest.
    """
    return {"dtype": recipe.engine.dtype}


def _without_sources(chosen: dict[str, Any]) -> dict[str, Any]:
    """Data may move; the stream compares their digests."""
    for part in (chosen, *chosen["before"]):
        for domain in part["data"]["domains"]:
            del domain["source"]
    return chosen


def _stages(recipe: TrainRecipe) -> list[dict[str, Any]]:
    """What decides in the earlier stages: all that they may have of their own, whoever gave it."""
    found = []
    for name, stage in recipe.earlier.items():
        chosen = stage.model_dump(mode="json", include=set(STAGE_PARTS), exclude=_FREE)
        chosen["model"] = {key: chosen["model"][key] for key in StageModel.model_fields}
        chosen["data"] = {key: chosen["data"][key] for key in StageData.model_fields}
        found.append({"name": name, **chosen})
    return found


def recipe_digest(recipe: BaseModel) -> str:
    """What `Result.recipe` holds: the fingerprint of what decides, and of where the data are, since two runs may differ
    in nothing else."""
    if not isinstance(recipe, TrainRecipe):
        return _fingerprint(recipe.model_dump(mode="json", exclude=_FREE))
    dumped = _by_content(recipe)
    if recipe.engine.accumulate > 1 and any(map(_has_shared_statistics, (recipe, *recipe.earlier.values()))):
        dumped["engine"]["accumulate"] = recipe.engine.accumulate
    return _fingerprint(dumped)


def _has_shared_statistics(recipe: TrainRecipe) -> bool:
    return recipe.model is not None and shares_statistics(recipe.model, recipe.data.size_px)


def _by_content(recipe: TrainRecipe) -> dict[str, Any]:
    """What decides, with the hash of trained weights in the place of their name: they may move."""
    recipe = with_pinned_weights(recipe)
    chosen = recipe.model_dump(mode="json", exclude={**_FREE, "before": True})
    chosen |= {"engine": _engine(recipe), "before": _stages(recipe)}
    if recipe.model is not None:
        chosen["model"]["pretrained"] = recipe.model.pretrained_sha256
        del chosen["model"]["pretrained_revision"], chosen["model"]["pretrained_sha256"]
    if recipe.clip is not None:
        chosen["clip"]["model"] = recipe.clip.digest
        del chosen["clip"]["revision"], chosen["clip"]["digest"]
    if recipe.invert is not None:
        chosen["invert"] = by_content(recipe.invert)
    return chosen


def whole_digest(recipe: BaseModel) -> str:
    """The fingerprint of all of it, for runs that differ in what does not decide."""
    return _fingerprint(recipe.model_dump(mode="json"))


def _fingerprint(dumped: dict[str, Any]) -> str:
    for stage in dumped.get("before", ()):
        _as_digested(stage)
    _as_digested(dumped)
    return fingerprint(dumped)


def _as_digested(dumped: dict[str, Any]) -> None:
    """Leaves out what came later, and tells what came to be computed otherwise."""
    optim = dumped.get("optim") or {}
    if (optimizer := optim.get("optimizer")) in _MOVES:
        optim["optimizer"] = _MOVES[optimizer]
    for path, usual in _LATER.items():
        inner: Any = dumped
        for name in path[:-1]:
            inner = inner.get(name) or {}
        if inner.get(path[-1], usual) == usual:
            inner.pop(path[-1], None)
    for domain in dumped.get("data", {}).get("domains", ()):
        if not domain.get("planted_shift"):
            domain.pop("planted_shift", None)
        if domain.get("sampling") == "natural":
            del domain["sampling"]
    evaluate = dumped.get("evaluate") or {}
    for one in (evaluate.get("validation"), *(evaluate.get("tests") or {}).values()):
        if isinstance(one, dict) and one.get("views") == 1:
            del one["views"]
