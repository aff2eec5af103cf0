"""The card of an exported model for the Hugging Face hub, and the files that go there with it; of an adapted CLIP those
of `train.task.clip_card`.

In: the folder of a training. Out: the files to push (`shards.views.hub`), the card among them. On disk: only reads.

Pushed: the weights, the two descriptions beside them, a README.md. Not pushed: checkpoints, logs, the recipe, which
names places of this machine.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from shards.disk.layout import CARD
from shards.disk.safe_text import clip, markdown
from shards.views.hub import HubFile, listed_file, text_file
from train.evaluate.results import RESULTS, STAGES, Result, read_results, selected
from train.model.classifiers import SANDBOX
from train.model.clip import CLIP_ABOUT
from train.model.pretrained import ABOUT, CONFIG, WEIGHTS, About, read_about
from train.task.card_parts import accuracy, licence_fields, outputs
from train.task.clip_card import clip_files
from train.task.export import timms_description


def model_files(folder: Path, repo_id: str, licence: str | None) -> list[HubFile]:
    """The files of an exported model, its card last. Raises ValueError if there is no whole export."""
    if (folder / CLIP_ABOUT).is_file():
        return clip_files(folder, repo_id, licence)
    about = read_about(folder)
    if about is None or not (folder / ABOUT).is_file() or not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder}: found no exported model, expected {WEIGHTS} and {ABOUT}; run the same "
            "`sixfold train` to its end"
        )
    names = [name for name in (WEIGHTS, ABOUT, CONFIG) if (folder / name).is_file()]
    files = [listed_file(folder, name) for name in names]
    if CONFIG not in names and about.architecture not in SANDBOX:  # an export of an earlier version
        files.append(text_file(CONFIG, timms_description(about)))
    results = selected(read_results(folder / RESULTS).results)
    stages = [one for file in sorted((folder / STAGES).glob(f"*/{RESULTS}")) for one in read_results(file).results]
    return [*files, text_file(CARD, model_card(about, repo_id, licence, results, stages))]


def model_card(
    about: About, repo_id: str, licence: str | None, results: Sequence[Result], stages: Sequence[Result] = ()
) -> str:
    """The card: what the model is, how to load it, how good it is on which sets, what its outputs are called.
    `stages`: results of the stages that came before."""
    header: dict[str, object] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "sixfold"],
        **licence_fields(licence),
    }
    lines = [
        f"# {markdown(repo_id.partition('/')[2])}",
        "",
        f"A {markdown(about.architecture)} with {about.num_classes:,} outputs for pictures of {about.size_px} px, "
        f"trained with sixfold{_trained_on([*stages, *results])}.",
        "Its weights are plain: nothing of the training is needed to use them.",
        "",
    ]
    if about.architecture not in SANDBOX:
        lines += [
            "```python",
            "import timm",
            f'model = timm.create_model("hf-hub:{repo_id}", pretrained=True)',
            "```",
            "",
        ]
    lines += [
        f"Pictures: the short side to {about.size_px} / {about.crop_pct:g} px, {markdown(about.interpolation)}, then "
        f"the centre; mean {list(about.mean)}, standard deviation {list(about.std)}.",
        "",
    ]
    lines += [*accuracy(results), *outputs(about.names, ABOUT)]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n" + "\n".join(lines)


def _trained_on(results: Sequence[Result]) -> str:
    """The domains by name; nothing where no result says them. Results name the sets that were measured, too."""
    sets = {one.set for one in results}
    domains = dict.fromkeys(name for one in results for name in one.data if name not in sets)
    return f" on {', '.join(markdown(clip(name, 40)) for name in domains)} images" if domains else ""
