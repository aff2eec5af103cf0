"""Reads text files that people give us; the error for one that cannot be read is one line with advice.

In: a path. Out: its text or its lines. On disk: nothing is written.
"""

from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file without its byte-order mark. Raises ValueError with one line."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: found no such file, expected a readable one; check the path") from None
    except OSError as error:
        raise ValueError(
            f"{path}: found a file that cannot be read ({error.strerror}), expected a readable one"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: found bytes that are not UTF-8 at {error.start}; save it as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """Lines without their ends; only newlines end a line, so a stray U+2028 stays in its name and is refused there."""
    return [line.rstrip("\r") for line in read_text(path).split("\n") if line.strip()]
