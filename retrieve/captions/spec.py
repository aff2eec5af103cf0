"""What a recipe says of the search by caption."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=500)]
Semantics: TypeAlias = Literal["phrase", "word", "substring"]


class CaptionSpec(BaseModel):
    """Which captions name a class.

    `queries` replaces a class's own name: a list of which one must hold, each a text or a list of texts that must all
    stand in the caption, in any order:

        rose: [[rose, flower]]              # rose and flower
        colt's foot: [colt's foot, coltsfoot]  # one of the two
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Semantics = Field(
        "phrase",
        description="phrase = tokens, as SQLite's full-text search of Unmet Promise; word = the text between borders "
        "of words; substring = the text anywhere, inside words too",
    )
    text: Literal["name", "meaning"] = Field(
        "name", description="what stands in captions: the class's name, or the words of its chosen meaning"
    )
    queries: Mapping[
        str, Annotated[tuple[Text | Annotated[tuple[Text, ...], Field(min_length=1)], ...], Field(min_length=1)]
    ] = Field(
        default={},
        description="class name -> what is searched for in its place: any of these, each a text or a list of texts "
        "that all stand in the caption; shipped class lists have some of their own",
        examples=[{"rose": [["rose", "flower"]]}],
    )
