"""The dataset card for the Hugging Face hub: README.md with a YAML header.

In: a `Census` and the run's fingerprints. Out: Markdown that says what the images are, what made them, under which
licences, how many there are, and what they must not be used for. Text from the data set is escaped for Markdown, HTML
and YAML. On disk: only the short README.md in a data set's own folder.
"""

from collections import Counter
from collections.abc import Sequence

import yaml
from markupsafe import Markup

from shards.disk.layout import CARD, EDIT_FIELD, SAMPLE_SCHEMA
from shards.disk.safe_text import clip, markdown, visible
from shards.disk.store import Store
from shards.views.census import Census
from shards.views.page import markdown_environment

HUB_LICENCES = frozenset(
    {"afl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0"}
    | {"cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0"}
    | {"creativeml-openrail-m", "gpl-3.0", "mit", "odbl", "odc-by", "openrail", "openrail++", "pddl", "unlicense"}
)
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
SPARSE = 2  # so many ids for a class at most, or labels stay numbers
HUGE = "10M<n<100M"
MAX_LINES = 40  # of one table on the card
CONFIGS = [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}]
ORIGINS = {
    "synthetic": "made by a generative model; they show nothing that happened and nobody who exists",
    "edited": "real pictures that a generative model has changed",
    "retrieved": "found on the web; the column `url` names each source",
    "real": "real pictures",
}
TABLES = {
    "model": ("What made them", "model @ revision"),
    "licence": ("Licences", "licence"),
    "prompt_kind": ("Kinds of prompt", "kind"),
    "sampler": ("Settings", "sampler"),
}


def write_folder_card(store: Store, title: str) -> None:
    """Write a data set's own README.md, unless there is one. Its header tells Hugging Face `datasets` which files are
    data: without it that library guesses, and takes pictures of pages for data."""
    if store.exists(CARD):
        return
    body = (
        f"# {markdown(title)}\n\nA data set made by sixfold: the images are in `NNNNN.tar`, a row for each draw in "
        "`NNNNN.parquet`. `sixfold verify` checks\nevery byte; `sixfold export --to huggingface` writes a card with "
        "origins, licences and counts.\n"
    )
    header = yaml.safe_dump({"configs": CONFIGS}, sort_keys=False)
    store.write_exclusive(CARD, f"---\n{header}---\n{body}".encode())


def dataset_card(
    census: Census, title: str, fingerprints: Sequence[str], num_left_out: int, num_unlicensed: int
) -> str:
    """The card of the samples in ``census``, of which ``num_unlicensed`` may not be passed on.

    ``num_left_out`` others are not in the export for that reason.
    """
    domains = census.values["domain"]
    tables = [(*TABLES[column], census.values[column].most_common()) for column in TABLES]
    classes = [(f"{one.name} ({one.class_id})", one.successes) for one in census.sorted_classes()]
    tables.append(("Classes", "class (id)", classes))
    return (
        markdown_environment()
        .get_template("dataset_card.md")
        .render(
            header=Markup(yaml.safe_dump(_header(census, title, num_unlicensed), sort_keys=False, allow_unicode=False)),
            title=clip(title, 200),
            census=census,
            generated=domains["synthetic"] + domains["edited"],
            origins=[(count, Markup(ORIGINS[domain])) for domain, count in domains.most_common() if domain in ORIGINS],
            tables=[
                (
                    Markup(name),
                    Markup(column),
                    [(clip(label, 300), count) for label, count in rows[:MAX_LINES]],
                    len(rows),
                )
                for name, column, rows in tables
                if rows
            ],
            fingerprints=[fingerprint[:16] for fingerprint in fingerprints[:MAX_LINES]],
            num_left_out=num_left_out,
            num_unlicensed=num_unlicensed,
        )
    )


def _header(census: Census, title: str, num_unlicensed: int) -> dict[str, object]:
    licences = sorted({licence.lower() for licence in census.values["licence"]})
    if licences and set(licences) <= HUB_LICENCES and not num_unlicensed:
        header: dict[str, object] = {"license": licences[0] if len(licences) == 1 else licences}
    else:
        header = {"license": "other", "license_name": "see-card"}
    domains = [domain for domain in ORIGINS if census.values["domain"][domain]]
    return {
        "pretty_name": clip(title, 100),
        **header,
        "task_categories": ["image-classification", "text-to-image"],
        "size_categories": [next((name for limit, name in SIZES.items() if census.successes < limit), HUGE)],
        "tags": ["webdataset", "sixfold", *domains],
        # without them a reader takes what the first samples have for all, and loses or refuses the rest
        "dataset_info": {"features": _features(census)},
        "configs": CONFIGS,
    }


def _features(census: Census) -> list[dict[str, object]]:
    """The fields of a sample as Hugging Face `datasets` reads them from the tars, with the names of the labels."""
    fields = [*SAMPLE_SCHEMA, *([EDIT_FIELD] if census.edits else [])]
    facts = [{"name": field.name, "dtype": str(field.type)} for field in fields]
    texts: list[dict[str, object]] = [{"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")]
    return [
        {"name": "cls", "dtype": _label_type(census)},
        {"name": "jpg", "dtype": "image"},
        {"name": "json", "struct": [*facts, {"name": "sha256", "dtype": "string"}]},
        *texts,
    ]


def _label_type(census: Census) -> object:
    """Names by id. Two classes of one name get their ids behind it; an id without a class is called by its number."""
    names = {one.class_id: visible(one.name) for one in census.sorted_classes()}
    size = max(names, default=-1) + 1
    if size > SPARSE * len(names):
        return "int64"
    times = Counter(names.values())
    shown = {number: names.get(number, str(number)) for number in range(size)}
    shown |= {number: f"{name} ({number})" for number, name in names.items() if times[name] > 1}
    if len(set(shown.values())) < size:
        shown = {number: f"{name} ({number})" for number, name in shown.items()}
    return {"class_label": {"names": {str(number): name for number, name in shown.items()}}}
