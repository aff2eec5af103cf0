"""Questions about an edited image: whether its attribute is visible, and whether it is plausible; pure.

In: an attribute, and the name or meaning of the class. Out: four `Question`s. On disk: nothing.

The expected answer stands beside the text and never in it: the texts are the same for both sides of an attribute, and
leave out its description, in which a language model may have written what it thinks of it.
"""

from collections.abc import Mapping

from gen.edit.attributes.attribute import Attribute, AttributeKind
from gen.edit.judge.question import Asks, Question
from gen.wording.parts import Wording

_FORMS: Mapping[AttributeKind, tuple[tuple[Asks, str], ...]] = {
    "background": (
        ("visible", 'Is "{attribute}" what the background of this picture shows?'),
        ("visible", 'Does {subject} in this picture stand before or in "{attribute}"?'),
        ("plausible", 'Is "{attribute}" a place where one can meet {subject}?'),
        ("plausible", 'Could a camera have taken a photograph of {subject} with "{attribute}" behind it?'),
    ),
    "colour": (
        ("visible", 'Is "{attribute}" the main colour of {subject} in this picture?'),
        ("visible", 'Would a person who sees this picture say that its subject has the colour "{attribute}"?'),
        ("plausible", 'Is "{attribute}" a colour that {subject} can have in our world?'),
        ("plausible", 'Could a camera have taken a photograph of {subject} in the colour "{attribute}"?'),
    ),
    "texture": (
        ("visible", 'Is "{attribute}" the surface of {subject} in this picture?'),
        ("visible", 'Would a person who sees this picture say that its subject looks as "{attribute}" does?'),
        ("plausible", 'Is "{attribute}" a surface that {subject} can have in our world?'),
        ("plausible", 'Could a camera have taken a photograph of {subject} with the surface "{attribute}"?'),
    ),
}


def questions_of(attribute: Attribute, name: str) -> tuple[Question, ...]:
    """Two questions whether the attribute is visible, then two whether it is plausible.

    `name` is the meaning of the class, or its name. It is visible if the edit succeeded; it is plausible if it is
    feasible.
    """
    words = {"attribute": attribute.name}
    return tuple(
        Question(Wording(form, words).text(name), asks, asks == "visible" or attribute.feasible)
        for asks, form in _FORMS[attribute.kind]
    )
