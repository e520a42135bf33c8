"""Names: the group of a site or a parameter in a store, and the number of the schema that they belong to.

Paths come from models and may hold anything; a group's name is what disks and object stores take.
"""

import hashlib
import re

SCHEMA_VERSION, READABLE = 2, (1, 2)
"""What is written, and what is read. Here, as who only reads should not have to import what configs are made of."""
RESERVED = re.compile(r"(full|summary|orders|levels|zarr\.json)_*")
UNSAFE = re.compile(r"[\x00-\x1f\x7f%\\]|^\.+$|^__")
SEGMENT_LIMIT, PATH_LIMIT = 240, 720
"""Bytes: a disk takes 255 a segment, an object store 1,024 for a key, with its prefix and what comes below."""


def site_group(path: str, root: str = "sites") -> str:
    r"""The group of a site; the truth is in its attribute `path`, because not every name can be one.

    A segment that is the name of a leaf group gets one more `_`. What a disk or an object store refuses is written as
    in a URL, and what is too long for them is cut, with a digest of all of it in place of the rest.

    >>> site_group("head/0"), site_group("encoder/summary"), site_group("encoder/summary_")
    ('sites/head/0', 'sites/encoder/summary_', 'sites/encoder/summary__')
    >>> site_group("Übung/.."), site_group("a\nb"), len(site_group("x" * 400))
    ('sites/Übung/%2E%2E', 'sites/a%0Ab', 246)
    """
    segments = [_shortened(_segment(segment), SEGMENT_LIMIT) for segment in path.split("/")]
    return "/".join([root, _shortened("/".join(segments), PATH_LIMIT)])


def _segment(name: str) -> str:
    name = UNSAFE.sub(lambda found: "".join(f"%{ord(one):02X}" for one in found[0]), name) or "_"
    return f"{name}_" if RESERVED.fullmatch(name) else name


def _shortened(name: str, limit: int) -> str:
    """Within so many bytes of UTF-8; names that differ stay different."""
    content = name.encode()
    if len(content) <= limit:
        return name
    digest = hashlib.sha256(content).hexdigest()[:16]
    return content[: limit - 17].decode(errors="ignore") + "~" + digest


def blocks_group(path: str, quantity: str) -> str:
    """Where the blocks of a site's neurons are, for each sample."""
    return f"{site_group(path)}/levels/natural/{quantity}/samples"
