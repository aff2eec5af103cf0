"""The Task of style inversion: the rows of new words, learned on real pictures with a frozen generator.

In: a `TrainRecipe` with the section `invert`. Out: an `Invert`. On disk: the files of `gen.model.style_token`, and the
page `inversion.html`.

A step adds noise to the latents of real pictures, as the generator's own scheduler does, tells the generator what they
show (the class's name or meaning, and the new word), and descends the squared error of what it predicts. Noise, place
in time and template of a picture are keyed by (seed, step, sample), so they do not depend on ranks or batches.

A set is measured on pictures of all classes that have a word, equally many of each (`train.task.turns`), with noise
that is keyed by the sample alone, in four places in time. The score is 1 / (1 + loss); the result line counts the
pictures whose loss is lower than with the rows before the first step.

Shapes: N pictures, C channels, H height and W width of latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.ranks.group import Ranks
from gen.invert.files import write_style_token
from gen.invert.inversion import Generator, Inversion
from gen.invert.page import PAGE, Row, write_page
from gen.invert.spec import InvertSpec, open_generator, pinned_generator, refuse_other_weights
from gen.invert.words import Words, words_for
from shards.disk.amounts import counted
from shards.disk.safe_text import quoted
from shards.stream.keyed_random import hashed
from shards.stream.read_all import EvalBatch, read_all
from shards.stream.stream import Batch
from train.evaluate.counts import Counts
from train.evaluate.data_check import Opened, read_names, what_is_read
from train.evaluate.evaluate import OpenSet, open_set, open_sets
from train.evaluate.results import Role
from train.model.engine import Forward, autocast
from train.model.optim import Loss
from train.recipe import TrainRecipe
from train.task.facts import FACTS
from train.task.task import Measured
from train.task.turns import first_pictures, spread

_NOISE, _PLACE, _LATENT, _MEASURE, _DRAW = 0x6E6F6973, 0x706C6163, 0x6C61746E, 0x6D656173, 0x64726177
BANDS = 4  # of time, from little to much noise; each picture of a set is measured once in each


def invert(recipe: TrainRecipe) -> "Invert":
    """The Task of this recipe."""
    assert recipe.invert is not None
    return Invert(recipe, pinned_generator(recipe.invert))


@dataclass
class _Found:
    """What the Task has seen of its data, on this rank."""

    words: Words | None = None
    domain: Opened | None = None
    digests: dict[str, str] = field(default_factory=dict)  # domain -> digest of its index
    num_outputs: int = 0
    generator: Generator | None = None
    base: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # set -> losses with the first rows


@dataclass(frozen=True)
class Invert:
    """`train.task.task.Task` says what each function is for."""

    recipe: TrainRecipe
    spec: InvertSpec
    metric: str = FACTS["invert"].metric
    found: _Found = field(default_factory=_Found)

    def check_data(self, domains: Sequence[Opened], ranks: Ranks) -> list[str]:
        """Raises ValueError for data without names of classes, for a class without a word, and for a set to measure
        none of whose classes has one, or that shows things several times."""
        names: dict[int, str] = {}
        for one in domains:
            told = read_names(one)
            if told is None or (missing := sorted(set(np.unique(one.index.label).tolist()) - told.keys())):
                which = "no class names" if told is None else f"no name of class {missing[0]}"
                raise ValueError(
                    f"{one.place}: found {which}, expected names, for prompts say them; make shards of it with "
                    "`sixfold export --to shards --classes`"
                )
            names |= {class_id: min(found) for class_id, found in told.items()}
        self.found.domain = domains[0]
        self.found.words = words_for(self.spec, names)
        self.found.num_outputs = max(names) + 1
        self.found.digests.update({one.field: one.index.digest for one in domains})
        sets = self._open_sets(domains)
        for measured in sets:
            if measured.spec.views != 1:
                raise ValueError(
                    f"{measured.opened.field}.views: found {measured.spec.views} with task invert, which measures a "
                    "part of a set, expected 1; leave it out"
                )
            if not self._measured(measured):
                raise ValueError(
                    f"{measured.opened.place}: found no picture of a class that has a word, expected classes of "
                    f"{domains[0].place}; give another set"
                )
        if ranks.rank != 0:
            return []
        num = len(self.found.words.words)
        said = [f"invert: {counted(num, 'word')} of {counted(self.spec.vectors, 'row')} each for {self.spec.model}"]
        return [*said, *what_is_read([*domains, *(one.opened for one in sets)])]

    def _open_sets(self, domains: Sequence[Opened]) -> list[OpenSet]:
        recipe = self.recipe
        outputs = self.found.num_outputs
        return open_sets(recipe.evaluate, outputs, recipe.data.cache.folder, domains, recipe.data.class_list)

    def _measured(self, one: OpenSet) -> list[int]:
        """The classes of a set on which it is measured."""
        return [class_id for class_id in one.key.ids if class_id in self.words.texts]

    @property
    def words(self) -> Words:
        """Those of the data, which `check_data` has seen."""
        assert self.found.words is not None
        return self.found.words

    def build(self, device: torch.device) -> nn.Module:
        if self.found.generator is None:
            refuse_other_weights(self.spec)
            words = [one.word for one in self.words.words]
            made = Generator(open_generator(self.spec), self.spec, words, self.recipe.data.size_px, device)
            made.check_texts([text for texts in self.words.texts.values() for text in texts])
            self.found.generator = made
        return Inversion(self.found.generator).to(device)

    @property
    def generator(self) -> Generator:
        """The frozen parts, which `build` has loaded."""
        assert self.found.generator is not None
        return self.found.generator

    @property
    def is_still(self) -> bool:
        """Whether a picture looks the same whenever it comes, but for a row or column, so that keeping latents pays."""
        look = self.recipe.data.augment
        return look.scale == (1.0, 1.0) and look.ratio[0] == look.ratio[1] and look.only_crops

    def loss(self, forward: Forward, batch: Batch, device: torch.device, ranks: Ranks) -> Loss:
        uids, labels = [int(uid) for uid in batch.uids], [int(label) for label in batch.labels]
        unknown = sorted(set(labels) - self.words.texts.keys())
        if unknown:
            raise ValueError(f"step {batch.step}: found class id {unknown[0]}, expected a class that has a word")
        seed = self.recipe.seed
        keys = [[hashed(seed, what, batch.step, uid) for uid in uids] for what in (_PLACE, _NOISE, _LATENT)]
        places, noises, latents = keys
        choices = [self.words.texts[label] for label in labels]
        texts = [some[key % len(some)] for key, some in zip(places, choices, strict=True)]
        generator = self.generator
        clean = generator.latents(batch.images, [key >> 1 for key in latents], self.is_still)
        noise = generator.gaussian([key >> 1 for key in noises], clean.shape[1:])
        place = torch.tensor([(hashed(key) >> 11) * 2.0**-53 for key in places], device=device)
        each_N = _error(generator, forward, clean, noise, place, texts)
        total = each_N.mean()
        return Loss(total, {"noise": total.detach()})

    def measure(self, model: nn.Module, name: str, role: Role, device: torch.device, ranks: Ranks) -> Measured:
        recipe = self.recipe
        spec = recipe.evaluate.validation if role == "validation" else recipe.evaluate.tests[name]
        assert spec is not None
        assert isinstance(model, Inversion)
        cache = recipe.data.cache.folder
        one = open_set(name, role, spec, self.found.num_outputs, cache, recipe.data.class_list)
        if name not in self.found.base:
            self.found.base[name] = self._losses(one, model, model.initial(), ranks, device)
        losses = self._losses(one, model, dict(model.rows.items()), ranks, device)
        before = self.found.base[name]
        ids, seen, right = self._measured(one), [], []
        for class_id in ids:
            own = losses[:, 0] == class_id
            seen.append(int(own.sum()))
            right.append(int((losses[own, 1:].mean(1) < before[own, 1:].mean(1)).sum()))
        unknown = int(np.count_nonzero(~np.isin(one.opened.index.label, ids)))
        counts = Counts(tuple(ids), np.array(seen), np.array(right), np.array(right), 0, unknown)
        loss, first = float(losses[:, 1:].mean()), float(before[:, 1:].mean())
        numbers = {"loss": loss, "loss_untrained": first, "nearer": counts.top1}
        for band in range(BANDS):
            numbers[f"loss_band_{band}"] = float(losses[:, 1 + band].mean())
            numbers[f"loss_untrained_band_{band}"] = float(before[:, 1 + band].mean())
        pictures = {}
        if role == "validation" and self.spec.pictures and ranks.rank == 0:
            pictures = {"learned": _side_by_side(self._draw(dict(model.rows.items()), self._texts("learned")))}
        said = f"{100 * counts.top1:.2f} %; loss {loss:.4f}, with the untrained word {first:.4f}"
        return Measured(name, role, one.digest, counts, {}, 1 / (1 + loss), numbers, said, pictures)

    def _losses(
        self, one: OpenSet, model: Inversion, rows: Mapping[str, Tensor], ranks: Ranks, device: torch.device
    ) -> NDArray[np.float64]:
        """[pictures, 1 + BANDS]: the class, the loss in each band; of the same pictures on every rank, in order."""
        recipe, spec = self.recipe, one.spec
        shown = recipe.data.shown(spec.source, recipe.evaluate.crop_pct)
        index = one.opened.index
        chosen = spread(index, self._measured(one), self.spec.validation_pictures)
        found = torch.zeros(len(chosen), 1 + BANDS, dtype=torch.float64)

        def forward(noisy: Tensor, at: Tensor, texts: Sequence[str]) -> Tensor:
            generator = model.generator
            with autocast(recipe.engine, device), generator.using(rows):
                return generator.predict(noisy, at, generator.encode(texts))

        with torch.no_grad():
            for number, batch in enumerate(read_all(shown, index, recipe.evaluate.batch, ranks.rank, ranks.world)):
                first = (number * ranks.world + ranks.rank) * recipe.evaluate.batch
                kept = [at for at in range(int(batch.valid.sum())) if first + at in chosen]
                if not kept:
                    continue
                at_row = np.searchsorted(chosen, [first + at for at in kept])
                found[at_row] = self._of_batch(batch, kept, forward)
        together: NDArray[np.float64] = ranks.add_up(found).numpy()
        return together

    def _of_batch(self, batch: EvalBatch, kept: Sequence[int], forward: Forward) -> Tensor:
        """The class and the losses of some pictures of a batch."""
        generator = self.generator
        uids, labels = [int(batch.uids[at]) for at in kept], [int(batch.labels[at]) for at in kept]
        texts, found = [self.words.texts[label][0] for label in labels], [torch.tensor(labels, dtype=torch.float64)]
        keys = [hashed(_MEASURE, uid) >> 1 for uid in uids]
        clean = generator.latents(batch.images[list(kept)], keys, False)
        for band in range(BANDS):
            noise = generator.gaussian([hashed(key, band) >> 1 for key in keys], clean.shape[1:])
            inside = [(hashed(key, band, _PLACE) >> 11) * 2.0**-53 for key in keys]
            place = torch.tensor([(band + share) / BANDS for share in inside], device=clean.device)
            found.append(_error(generator, forward, clean, noise, place, texts).double().cpu())
        return torch.stack(found, dim=1)

    def keep(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def finished(self, kept: Mapping[str, Tensor], device: torch.device) -> nn.Module:
        model = self.build(device)
        model.load_state_dict(dict(kept), strict=True)
        return model.eval()

    def check_export(self, model: nn.Module, device: torch.device) -> None:
        generator, text = self.generator, next(iter(self.words.texts.values()))[0]
        denoiser = generator.denoiser.config
        channels = denoiser.in_channels // (4 if generator.family == "flux" else 1)
        side = self.recipe.data.size_px // generator.pipeline.vae_scale_factor
        noisy, middle = generator.gaussian([0], (channels, side, side)), generator.noise.index(torch.tensor([0.5]))
        with torch.no_grad():
            one, other = (
                each(noisy, middle.to(device), [text]) for each in (model, self.finished(self.keep(model), device))
            )
        if not torch.equal(one, other):
            raise ValueError(
                "export: found a prediction that the kept rows do not give again, expected the same; this generator "
                "depends on something besides its inputs"
            )

    def export(self, folder: Path, kept: Mapping[str, Tensor], facts: Mapping[str, Any], last: nn.Module) -> None:
        assert isinstance(last, Inversion)
        learned = {name.removeprefix("rows."): tensor for name, tensor in kept.items()}
        untrained = {name: tensor.detach().cpu() for name, tensor in last.initial().items()}
        told = {"data": self.found.digests, "domain": self.recipe.data.domains[0].name, **facts}
        write_style_token(
            folder,
            self.spec,
            last.generator.family,
            self.words.words,
            {name: tensor.float().numpy() for name, tensor in learned.items()},
            {name: tensor.float().numpy() for name, tensor in untrained.items()},
            told,
        )
        if self.spec.pictures:  # after the token: a page that cannot be drawn costs no training
            self._write_page(folder, {name: rows.to(last.generator.device) for name, rows in learned.items()}, last)

    def is_exported(self, folder: Path) -> bool:
        return (folder / FACTS["invert"].last_file).is_file()

    # pictures

    def _texts(self, which: str) -> list[str]:
        """What pictures are told to show: class after class."""
        said = self.words.plain if which == "plain" else {label: one[0] for label, one in self.words.texts.items()}
        texts = [text for _, text in sorted(said.items())]
        return [texts[number % len(texts)] for number in range(self.spec.pictures)]

    def _draw(self, rows: Mapping[str, Tensor], texts: Sequence[str]) -> NDArray[np.uint8]:
        seeds = [hashed(self.recipe.seed, _DRAW, number) >> 1 for number in range(len(texts))]
        with self.generator.using(rows):
            return self.generator.draw(texts, seeds)

    def _write_page(self, folder: Path, learned: Mapping[str, Tensor], last: Inversion) -> None:
        plain, told = self._texts("plain"), self._texts("learned")
        rows = [
            Row("Plain prompt", "The generator as it is.", tuple(plain), self._draw({}, plain)),
            Row(
                "Untrained word",
                f"The same words as below; the new word still means {quoted(self.spec.initial, 60)}.",
                tuple(told),
                self._draw(last.initial(), told),
            ),
            Row("Learned word", "After the training.", tuple(told), self._draw(learned, told)),
        ]
        recipe, domain = self.recipe, self.found.domain
        assert domain is not None
        shown = recipe.data.shown(domain.source, recipe.evaluate.crop_pct)
        real = first_pictures(shown, domain.index, sorted(self.words.texts), self.spec.pictures)
        if real:
            labels, images = zip(*real, strict=True)
            texts = tuple(self.words.plain[label] for label in labels)
            rows.append(Row("Real pictures", "That it was learned on.", texts, np.stack(images), is_real=True))
        figures = {
            "new words": f"{len(self.words.words):,}",
            "rows of each": f"{self.spec.vectors}",
            "steps": f"{self.recipe.schedule.steps:,}",
        }
        write_page(folder / PAGE, [one.word for one in self.words.words], rows, figures)


def _error(
    generator: Generator, forward: Forward, clean: Tensor, noise: Tensor, place_N: Tensor, texts: Sequence[str]
) -> Tensor:
    """The squared error of what is predicted, a mean for each picture, N."""
    index_N = generator.noise.index(place_N)
    noisy = generator.noise.add(clean, noise, index_N)
    predicted = forward(noisy, index_N, texts)
    target = generator.noise.target(clean, noise, index_N)
    return (predicted.float() - target).square().mean((1, 2, 3))


def _side_by_side(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One picture of all, HWC."""
    return np.concatenate(list(images_NHWC), axis=1)
