"""Our tar files, byte for byte: plain USTAR with fixed metadata.

In: member names and bytes. Out: the blocks of a tar, which depend on nothing else (no clock, no user, no mode mask). On
disk: for every member a header block and the data, padded to 512 bytes; at the end two zero blocks and padding to
10,240 bytes, as tar(1) writes them.

Reading needs no tar parser, because the table says where every member is. A header depends on name and size alone, so
`verify` compares it with the only header that we could have written. Links, devices, sparse files, long names and
extended headers cannot occur.
"""

BLOCK = 512
RECORD = 20 * BLOCK
MAX_MEMBER_BYTES = 8**11 - 1  # what USTAR's octal size field holds, 8 GiB - 1

_MODE_UID_GID = b"0000644\0" + 2 * b"0000000\0"
_MTIME = b"00000000000\0"
_KIND_AND_REST = b"0" + bytes(100) + b"ustar\x0000" + bytes(BLOCK - 265)  # a regular file, no link, no owner's name
# The checksum is the sum of all bytes and counts itself as eight blanks; only name and size differ between headers.
_FIXED_SUM = sum(_MODE_UID_GID + _MTIME + 8 * b" " + _KIND_AND_REST)


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data. Raises ValueError for a name or size USTAR cannot carry."""
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= 100:
        raise ValueError(f"member {name[:40]!r}: found a name of {len(encoded)} bytes, expected 1..100")
    if not 0 <= size <= MAX_MEMBER_BYTES:
        raise ValueError(f"member {name}: found {size} bytes, a member has at most {MAX_MEMBER_BYTES}")
    digits = b"%011o\0" % size
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(encoded) + sum(digits))
    return b"".join((encoded.ljust(100, b"\0"), _MODE_UID_GID, digits, _MTIME, checksum, _KIND_AND_REST))


def padding(size: int) -> bytes:
    """The zeros between a member's data and the next header."""
    return bytes(-size % BLOCK)


def trailer(size: int) -> bytes:
    """The zeros that end a tar of `size` bytes so far."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)
