"""Variables that switch safety checks of our libraries off; every run removes them.

In: an environment. Out: their names; the environment without them. On disk: nothing.
"""

import re
from collections.abc import Iterable, MutableMapping

UNSAFE_SWITCHES = (
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
    "HF_TRUST_REMOTE_CODE",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "GOPEN_REWRITE",
)
UNSAFE_PATTERN = re.compile(r"RAY_DATA_\w*UNSAFE\w*")


def unsafe_switches(environ: Iterable[str]) -> list[str]:
    """The names that are set."""
    return [name for name in environ if name in UNSAFE_SWITCHES or UNSAFE_PATTERN.fullmatch(name)]


def clear_unsafe_switches(environ: MutableMapping[str, str]) -> list[str]:
    """Remove the variables that switch a library's safety checks off; returns their names."""
    names = unsafe_switches(environ)
    for name in names:
        del environ[name]
    return names
