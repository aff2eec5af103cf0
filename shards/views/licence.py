"""Which licences let an image be passed on; pure.

In: the text of the column `licence`. Out: whether it names a licence, and not one that forbids passing on. Its
conditions (attribution, limits of use) are for the user to check. On disk: nothing.
"""

# as `_folded` spells them
UNKNOWN = frozenset({"", "na", "nan", "none", "notspecified", "null", "undefined", "unknown", "unspecified"})
CLOSED = frozenset({"allrightsreserved", "copyrighted", "noredistribution", "proprietary"})
# where a licence comes from, for those who miss it
HOW_TO_NAME = (
    "the recipe field sampler.licence names that of generated images, before they are made, and `sixfold export --to "
    "shards --licence` that of your own"
)


def may_be_passed_on(licence: str | None) -> bool:
    """``"CC-BY-4.0"`` -> True; ``None``, ``"N/A"``, ``"All rights reserved."`` -> False."""
    name = _folded(licence or "")
    return name not in UNKNOWN and name not in CLOSED


def _folded(licence: str) -> str:
    """Letters and digits alone, in small letters: people write blanks, ``_`` and ``-`` as they like."""
    return "".join(filter(str.isalnum, licence.casefold()))
