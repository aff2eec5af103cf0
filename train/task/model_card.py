"""The card of an exported model for the Hugging Face hub, and the files that go there with it.

In: the folder of a training. Out: the files to push (`shards.views.hub`), the card among them. On disk: only reads.

Pushed: the weights, the two descriptions beside them, a README.md. Not pushed: checkpoints, logs, the recipe, which
names places of this machine.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from shards.disk.layout import CARD
from shards.disk.safe_text import clip, markdown, visible
from shards.views.dataset_card import HUB_LICENCES
from shards.views.hub import HubFile, listed_file, text_file
from train.evaluate.results import RESULTS, Result, read_results, selected
from train.model.classifiers import SANDBOX
from train.model.pretrained import ABOUT, CONFIG, WEIGHTS, About, read_about
from train.task.export import timms_description

MAX_CLASSES = 200  # on the card; all stand in model.json
MAX_SETS = 40


def model_files(folder: Path, repo_id: str, licence: str | None) -> list[HubFile]:
    """The files of an exported model, its card last. Raises ValueError if there is no whole export."""
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
    return [*files, text_file(CARD, model_card(about, repo_id, licence, results))]


def model_card(about: About, repo_id: str, licence: str | None, results: Sequence[Result]) -> str:
    """The card: what the model is, how to load it, how good it is on which sets, what its outputs are called."""
    header: dict[str, object] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["timm", "image-classification", "sixfold"],
    }
    if licence is not None:
        known = licence.lower() in HUB_LICENCES
        header |= {"license": licence.lower()} if known else {"license": "other", "license_name": visible(licence)}
    lines = [
        f"# {markdown(repo_id.partition('/')[2])}",
        "",
        f"A {markdown(about.architecture)} with {about.num_classes:,} outputs for pictures of {about.size_px} px, "
        "trained with sixfold on real and synthetic images.",
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
    if results:
        lines += ["## Accuracy", "", "| test set | top-1, % | top-5, % | pictures |", "|---|---|---|---|"]
        lines += [
            f"| {markdown(clip(one.set, 80))} | {100 * one.top1:.2f} | {100 * one.top5:.2f} | {one.n:,} |"
            for one in results[:MAX_SETS]
        ]
        lines += ["", "One training, so no spread over seeds.", ""]
    if about.names:
        lines += ["## Outputs", ""]
        lines += [
            f"* {number}: {markdown(clip(name, 80))}" for number, name in sorted(about.names.items())[:MAX_CLASSES]
        ]
        lines += [f"* and {len(about.names) - MAX_CLASSES:,} more in {ABOUT}"] if len(about.names) > MAX_CLASSES else []
        lines += [""]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n" + "\n".join(lines)
