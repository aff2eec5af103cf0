"""Which licences let an image be passed on; pure.

In: the text of the column `licence`. Out: whether it names a licence, and not one that forbids passing on. Its
conditions (attribution, limits of use) are for the user to check. On disk: nothing.
"""

UNKNOWN = frozenset({"", "?", "n/a", "none", "unknown"})
CLOSED = frozenset({"all-rights-reserved", "no-redistribution", "proprietary"})
# where a licence comes from, for those who miss it
HOW_TO_NAME = (
    "the recipe field sampler.licence names that of generated images, before they are made, and `sixfold export --to "
    "shards --licence` that of your own"
)


def may_be_passed_on(licence: str | None) -> bool:
    """``"CC-BY-4.0"`` -> True; ``None``, ``"unknown"``, ``"proprietary"`` -> False."""
    name = (licence or "").strip().lower()
    return name not in UNKNOWN and name not in CLOSED
