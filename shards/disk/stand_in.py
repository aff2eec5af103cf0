"""Files that stand in for others: what lies under the name of a model, a tar or a picture that was never fetched.

In: the first bytes of a file. Out: what it is and what to do, for the end of a message. On disk: nothing.
"""

HEAD_BYTES = 512  # as many first bytes as `stand_in` looks at


def stand_in(head: bytes) -> str | None:
    """``"a git-lfs pointer; ..."`` if a file that begins with ``head`` stands in for another one, else None."""
    head = head[:HEAD_BYTES]
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file; run `git lfs pull` in its repository"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page instead of the file, often of a login or an error; download it again"
    return None
