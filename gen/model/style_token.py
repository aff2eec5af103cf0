"""A learned style token in its folder: words that a model's text encoders did not know, and their rows.

In: a folder that `sixfold invert` wrote. Out: a checked `StyleToken`, its digest, its rows. On disk, read only:

    token.json                          `TokenFile`: the words, the model that they belong to, what they were learned on
    learned_embeds.safetensors          word -> rows [vectors, width], for the first text encoder
    learned_embeds_2.safetensors        likewise for the second one, of SDXL and SD3
    untrained/learned_embeds….safetensors   the rows before the first step: the control
    <word>/…                            the same files for each word, if there are several

The files of rows are those of diffusers: `load_textual_inversion(folder)` reads them, with
`weight_name="learned_embeds_2.safetensors"`, `text_encoder=` and `tokenizer=` for the second encoder.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.numpy import load_file

from gen.model.folder import ModelError, ModelFolder, check_safetensors, read_config
from shards.disk.address import places_of
from shards.disk.regular import sha256_of
from shards.disk.safe_text import quoted

TOKEN = "token.json"
UNTRAINED = "untrained"
MAX_VECTORS = 16
MAX_WORDS = 10_000
MAX_WORD = 40  # characters between the brackets
WORD_PATTERN = r"<[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?>"  # no word of a language, and no part of another such word
# The text encoders that get rows, by family. T5 has none: diffusers gives learned words to CLIP alone, and T5 reads the
# letters of the word.
ENCODERS: dict[str, tuple[str, ...]] = {
    "sd": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd3": ("text_encoder", "text_encoder_2"),
    "flux": ("text_encoder",),
}
TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
FILES = {"text_encoder": "learned_embeds.safetensors", "text_encoder_2": "learned_embeds_2.safetensors"}

RowsName = Literal["learned", "untrained"]
Rows = NDArray[np.float32]  # [vectors, width]


class Word(BaseModel):
    """One word and the classes it stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    word: str = Field(pattern=f"^{WORD_PATTERN}$")
    classes: tuple[str, ...] | None = Field(description="names of the classes; null = all")
    ids: tuple[int, ...] | None = Field(description="their ids, which tell classes of one name apart")


class TokenFile(BaseModel):
    """token.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    words: tuple[Word, ...] = Field(min_length=1, max_length=MAX_WORDS)
    vectors: int = Field(ge=1, le=MAX_VECTORS, description="rows of each word")
    widths: Mapping[str, int] = Field(description="text encoder -> its width")
    family: str
    model: str = Field(description="folder or hub id, as the recipe named it")
    revision: str | None
    model_digest: str = Field(pattern="^[0-9a-f]{64}$")
    files: Mapping[str, str] = Field(description="file of rows -> its sha256")
    initial: str = Field(description="the words whose mean row was the first")
    learned_on: Mapping[str, Any] = Field(description="digest of the data, step, recipe, seed, loss")


@dataclass(frozen=True)
class StyleToken:
    """A checked folder."""

    folder: Path
    told: TokenFile

    def word_of(self, class_name: str, class_id: int) -> str:
        """The word that stands in prompts of a class. Raises ValueError if there is none."""
        named = [one for one in self.told.words if one.classes is None or class_name in one.classes]
        if len(named) > 1:  # several classes of this name
            named = [one for one in named if class_id in (one.ids or ())]
        if named:
            return named[0].word
        raise ValueError(
            f"{self.folder}: found no word for the class {quoted(class_name, 60)} among {len(self.told.words)}, "
            "expected one for each class; learn it on data that have this class, or with tokens: dataset"
        )

    def files(self, rows: RowsName) -> Iterator[tuple[str, str, str]]:
        """(word, text encoder, name of the file)."""
        for one in self.told.words:
            for encoder in self.told.widths:
                yield one.word, encoder, place_of(one.word, len(self.told.words), encoder, rows)

    def rows(self, rows: RowsName) -> dict[str, dict[str, Rows]]:
        """Text encoder -> word -> its rows. Raises ModelError for a file that is not what token.json says."""
        found: dict[str, dict[str, Rows]] = {encoder: {} for encoder in self.told.widths}
        for word, encoder, name in self.files(rows):
            path, wanted = self.folder / name, (self.told.vectors, self.told.widths[encoder])
            tensors = load_file(path)
            row = tensors.get(word)
            if len(tensors) != 1 or row is None or row.shape != wanted or not np.isfinite(row).all():
                shapes = ", ".join(f"{quoted(key, 50)} {list(one.shape)}" for key, one in tensors.items())
                raise ModelError(
                    f"{path}: found {shapes or 'nothing'}, expected finite rows {list(wanted)} of {word}; learn it "
                    "again with `sixfold invert`"
                )
            found[encoder][word] = row.astype(np.float32)
        return found


def tokens_of(word: str, vectors: int) -> list[str]:
    """The tokens that stand for a word, in their order."""
    return [word, *(f"{word}_{number}" for number in range(1, vectors))]


def spelled(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Texts with all tokens of each word of several vectors: "a <x> photo" becomes "a <x> <x>_1 photo".

    As `TextualInversionLoaderMixin.maybe_convert_prompt`, which the pipeline of SD3 lacks.
    """
    added = tokenizer.added_tokens_encoder
    several = {}
    for token in added:
        number = 1
        while f"{token}_{number}" in added:
            several[token] = " ".join(tokens_of(token, number + 1))
            number += 1
    prompts = list(texts)
    for word, tokens in several.items():
        prompts = [text.replace(word, tokens) for text in prompts]
    return prompts


def place_of(word: str, num_words: int, encoder: str, rows: RowsName) -> str:
    """The file of a word's rows, relative to the folder."""
    parts = [] if num_words == 1 else [word.strip("<>")]
    return "/".join([*parts, *([UNTRAINED] if rows == "untrained" else []), FILES[encoder]])


def open_style_token(name: str | Path) -> StyleToken:
    """The checked folder that a recipe names. Raises ModelError in one line."""
    places = places_of(str(name))
    folder = next((place for place in places if (place / TOKEN).is_file()), None)
    if folder is None:
        what = "a folder without" if any(place.is_dir() for place in places) else "no folder with"
        raise ModelError(
            f"style token {quoted(str(name), 120)}: found {what} {TOKEN}, expected what `sixfold invert` wrote; run it "
            "to its end, or check the path"
        )
    try:
        told = TokenFile.model_validate(read_config(folder / TOKEN))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(
            f"{folder / TOKEN}: found a bad field {where} ({first['msg']}), expected a file of `sixfold invert`; learn "
            "it again"
        ) from None
    token = StyleToken(folder.resolve(), told)
    for rows in ("learned", "untrained"):
        for _, _, file in token.files(rows):
            path = folder / file
            if not path.is_file() or sha256_of(path) != told.files.get(file):
                found = "another file" if path.is_file() else "no file"
                raise ModelError(f"{path}: found {found}, expected the one that {TOKEN} names; learn it again")
            check_safetensors(path)
    return token


def token_digest(token: StyleToken, rows: RowsName) -> str:
    """Hex sha256 of the words, their classes and their rows: of what decides texts and pictures."""
    told = token.told
    parts = [
        [one.word, list(one.classes) if one.classes is not None else None, encoder, told.files[file]]
        for one, (_, encoder, file) in zip(
            (one for one in told.words for _ in told.widths), token.files(rows), strict=True
        )
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_fits(token: StyleToken, folder: ModelFolder, digest: str) -> None:
    """Raises ModelError for the token of another model. `digest`: `gen.model.folder.model_digest` of this one."""
    told = token.told
    widths = encoder_widths(folder)
    if told.family != folder.family or dict(told.widths) != widths:
        raise ModelError(
            f"{token.folder}: found a token of family {told.family} for text encoders of width "
            f"{', '.join(map(str, told.widths.values()))}, expected {folder.family} and "
            f"{', '.join(map(str, widths.values()))}; learn one with this model"
        )
    if told.model_digest != digest:
        raise ModelError(
            f"{token.folder}: found a token that was learned with other weights (model {told.model}, digest "
            f"{told.model_digest[:12]}), expected those of {digest[:12]}; learn one with this model"
        )
    refuse_known(folder, [one.word for one in told.words], str(token.folder))


def encoder_widths(folder: ModelFolder) -> dict[str, int]:
    """Text encoder -> its width, of those that get rows. Raises ModelError for a model without them."""
    widths = {}
    for encoder in ENCODERS[folder.family]:
        config = folder.path / encoder / "config.json"
        width = read_config(config).get("hidden_size") if config.is_file() else None
        if not isinstance(width, int):
            raise ModelError(f"{config}: found no hidden_size, expected a CLIP text encoder; download the model again")
        widths[encoder] = width
    return widths


def refuse_known(folder: ModelFolder, words: Sequence[str], where: str) -> None:
    """Raises ModelError for a word that a tokenizer of the model has already; reads its files, not the library."""
    for tokenizer in sorted(path for path in folder.path.glob("tokenizer*") if path.is_dir()):
        known: set[str] = set()
        for name in ("vocab.json", "added_tokens.json"):
            if (tokenizer / name).is_file():
                known |= read_config(tokenizer / name).keys()
        if (tokenizer / "tokenizer.json").is_file():
            added = read_config(tokenizer / "tokenizer.json").get("added_tokens")
            known |= (
                {one["content"] for one in added or () if isinstance(one, dict)} if isinstance(added, list) else set()
            )
        for word in words:
            if word in known or f"{word}_1" in known:
                raise ModelError(
                    f"{where}: found the word {word}, which {tokenizer.name} of the model knows already, expected a "
                    "new one; learn it under another name (invert.token)"
                )
