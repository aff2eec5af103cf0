"""Gathers the attributes of each class, from a lexicon or from a language model.

In: classes, an `AttributeSpec`, a language model or None, the run seed. Out: one `ClassAttributes` a class, from which
`gen.edit.attributes.draw` draws. On disk: nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from gen.edit.attributes.ask import Wanted, ask_attributes
from gen.edit.attributes.attribute import Attribute, AttributeKind
from gen.edit.attributes.draw import ClassAttributes
from gen.edit.attributes.lexicon import SIDES, AttributeLexicon, Entry, check_disjoint, load_attributes
from gen.edit.attributes.spec import AttributeSpec
from gen.llm.ask import Llm
from gen.names.kind import kind_of
from shards.disk.safe_text import quoted
from shards.labels.classes import Class


def gather_attributes(
    classes: Sequence[Class],
    spec: AttributeSpec,
    llm: Llm | None,
    seed: int,
    meanings: Mapping[int, str] | None = None,
    dropped: Counter[str] | None = None,
) -> list[ClassAttributes]:
    """What the edits of each class are drawn from, in the order of the classes.

    `meanings`: class id -> the phrase for the sense of its name; without one, that of the class list counts. `dropped`
    counts a model's unusable attributes, by reason. Raises ValueError: no lexicon, a class without words, a model that
    gives too few, or source llm without a model.
    """
    lexicon = load_attributes(spec.lexicon)
    wanted = [_wanted(one, (meanings or {}).get(one.id) or one.meaning) for one in classes]
    if spec.source == "lexicon":
        found = {
            (one.class_id, kind, side): _entries(one, kind, side, lexicon, spec.lexicon)
            for one in wanted
            for kind in spec.kinds
            for side in spec.sides
        }
    elif llm is None:
        raise ValueError(
            "attributes.source: found llm, but no language model; set llm.provider, or attributes.source=lexicon"
        )
    else:
        found = ask_attributes(wanted, spec, lexicon, llm, seed, dropped)
    source = "llm" if spec.source == "llm" else f"lexicon:{spec.lexicon}"
    return [
        ClassAttributes(
            one.class_id,
            tuple(
                tuple(_attribute(entry, kind, side, spec, source) for entry in found[one.class_id, kind, side])
                for kind in spec.kinds
                for side in spec.sides
            ),
        )
        for one in wanted
    ]


def _wanted(one: Class, meaning: str | None) -> Wanted:
    return Wanted(one.id, meaning or one.name, one.name, kind_of(one, meaning))


def _entries(
    one: Wanted, kind: AttributeKind, feasible: bool, lexicon: AttributeLexicon, name: str
) -> tuple[Entry, ...]:
    """A class's words of one side. Raises ValueError if it has none, or if one of them is on both sides."""
    where = f"class {one.class_id} ({quoted(one.class_name, 60)}) of the kind {one.kind}"
    entries = lexicon.entries(kind, feasible, one.kind, one.class_name)
    others = lexicon.entries(kind, not feasible, one.kind, one.class_name)
    if not entries:
        raise ValueError(
            f"attributes.lexicon {quoted(name, 80)}: found no {SIDES[feasible]} {kind} for {where}, expected at least "
            f"one; add a group to {kind}.{SIDES[feasible]}"
        )
    ours, theirs = [entry.name for entry in entries], [entry.name for entry in others]
    check_disjoint(kind, *((ours, theirs) if feasible else (theirs, ours)), where)
    return entries


def _attribute(entry: Entry, kind: AttributeKind, feasible: bool, spec: AttributeSpec, source: str) -> Attribute:
    return Attribute(
        kind=kind,
        feasible=feasible,
        name=entry.name,
        text=entry.text,
        weight=spec.weights.of(kind),
        rgb=entry.rgb,
        source=source,
    )
