"""Sites: the named places of a model, and how a person chooses among them.

A `Site` is a plain record (no JAX in it), so that the same value describes a place in a traced program, a group in a
store and a row in a table. Sites are chosen by patterns over their paths:

    >>> sites = [Site("conv1", (8, 4, 4, 16), "float32", ("sample", "y", "x", "neuron"), "Conv"),
    ...          Site("head/0", (8, 32), "float32", ("sample", "neuron"), "Linear"),
    ...          Site("head/1", (8, 10), "float32", ("sample", "neuron"), "Linear")]
    >>> [site.path for site in choose(sites, "head/*")]
    ['head/0', 'head/1']
    >>> [site.path for site in choose(sites, ["type:Conv", "re:.*1$"], exclude="conv*")]
    ['head/1']

Pattern language: `**` any number of path segments, `*` and `?` within one segment, `[0-9]` a character class,
`{a,b}` alternatives, `blocks/mlp[2:4]` or `[-1]` some iterations of the outermost loop, `type:Linear` the kind of
module (with the same wildcards), `re:…` a regular expression that must match the whole path. A pattern that matches
nothing is an error: a silently empty choice is how captures get lost.
"""

import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from actigrad.errors import CaptureError, NoSuchSite, nearest

ITEM_SIZES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "bool": 1, "complex64": 8, "complex128": 16}
PICK = re.compile(r"(?P<base>.+)\[(?P<pick>-?\d+|-?\d*:-?\d*(:-?\d+)?)\]")


@dataclass(frozen=True, slots=True)
class Work:
    """What a model does between the sites before a place and that place; everything is owned by one place.

    Attributes:
        operations: primitives by name with how often they run, in program order; what only moves data is left out.
        flops: floating-point operations of the forward pass over the batch that was traced (`actigrad.engine.flops`).
        parameters: how many parameter values are read here first.
    """

    operations: tuple[tuple[str, int], ...] = ()
    flops: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Site:
    """A named place in a model, with the dims and dtype of the array that passes there.

    Attributes:
        path: the module's path in the framework's own state (`head/0`), or the name given to the value. A place that is
            passed more than once has `#1`, `#2`, … behind the second and later passes.
        shape: the array's shape for the batch that was traced.
        dtype: its dtype's name (`float32`, `bfloat16`, …).
        dims: a name for each axis; `sample` first, `neuron` last, a loop's axis (`layer`) in front of both.
        kind: the module's class name (`Conv`), or `""` for a value that was only named.
        feeds: the paths of the sites directly downstream in the data flow; `"loss"` for the loss.
        missing: why the gradient here cannot be captured, or `""`.
        picked: which iterations of its outermost loop are kept, None for all; `shape` counts these alone.
        work: what is done on the way here from the sites before; a module's own part, without that of sites within.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    kind: str = ""
    feeds: tuple[str, ...] = ()
    missing: str = ""
    picked: tuple[int, ...] | None = None
    work: Work = Work()

    @property
    def nbytes(self) -> int:
        """Bytes of the array for the batch that was traced."""
        return math.prod(self.shape) * self.item_size

    @property
    def item_size(self) -> int:
        """Bytes of one value."""
        return _item_size(self.dtype)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape for one sample: without the `sample` axis."""
        return tuple(size for size, dim in zip(self.shape, self.dims, strict=True) if dim != "sample")

    @property
    def differentiable(self) -> bool:
        """Whether a gradient exists here: the dtype is floating or complex."""
        return self.dtype.startswith(("float", "bfloat", "complex"))


def choose(
    sites: Iterable[Site], patterns: str | Sequence[str] = "**", exclude: str | Sequence[str] = ()
) -> tuple[Site, ...]:
    """The sites that match any of `patterns` and none of `exclude`, in their own order.

    Raises:
        NoSuchSite: when a pattern (of either list) matches no site; the message shows the nearest paths.
    """
    sites = tuple(sites)
    wanted = _matched(sites, _as_tuple(patterns))
    unwanted = _matched(sites, _as_tuple(exclude))
    return tuple(_keep(site, wanted[site.path]) for site in sites if site.path in wanted and site.path not in unwanted)


def exactly(paths: Iterable[str]) -> str:
    """The pattern that matches these paths and no others, whatever characters are in them.

    >>> choose([Site("a[0]", (), "float32", ()), Site("a", (), "float32", ())], exactly(["a[0]"]))[0].path
    'a[0]'
    """
    return "re:" + "|".join(re.escape(path) for path in paths)


def outermost(sites: Iterable[Site]) -> tuple[Site, ...]:
    """The sites that are within no other: the model's top-level modules, or what stands for them."""
    sites = tuple(sites)
    paths = {site.path for site in sites}
    above = lambda path: {path[:i] for i, char in enumerate(path) if char == "/"}
    return tuple(site for site in sites if not above(site.path) & paths)


def infer_dims(shape: Sequence[int], samples: int | None) -> tuple[str, ...]:
    """Names for the axes of an array, loops' axes not counted: `sample`, what stands between, `neuron`.

    Args:
        shape: the shape of the array.
        samples: the number of samples in the batch; an array whose first axis has another size has no `sample` dim.

    >>> infer_dims((8, 5, 16), samples=8), infer_dims((8,), samples=8), infer_dims((3, 16), samples=8)
    (('sample', 'position', 'neuron'), ('sample',), ('d0', 'neuron'))
    """
    if not shape:
        return ()
    if samples is None or shape[0] != samples:
        return (*(f"d{i}" for i in range(len(shape) - 1)), "neuron")
    between = len(shape) - 2
    names = {1: ("position",), 2: ("y", "x")}.get(between, tuple(f"d{i + 1}" for i in range(between)))
    return ("sample", *names, "neuron") if between >= 0 else ("sample",)


def _as_tuple(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _matched(sites: tuple[Site, ...], patterns: tuple[str, ...]) -> dict[str, set[int] | None]:
    """The paths that match, with the iterations that are asked for (None: all)."""
    matched: dict[str, set[int] | None] = {}
    for pattern in patterns:
        picked = _match_iterations(sites, pattern)
        found = picked or {site.path: None for site in sites if _compile(pattern)(site)}
        # "everything" may be asked of a model in which nothing is named: that is an empty answer, not a typing error.
        if not found and pattern != "**":
            raise NoSuchSite(_no_match(pattern, sites))
        for path, iterations in found.items():
            before = matched.get(path, set())
            matched[path] = None if before is None or iterations is None else before | iterations
    return matched


def _match_iterations(sites: tuple[Site, ...], pattern: str) -> dict[str, set[int] | None]:
    """What a pattern ending in `[2]`, `[-1]` or `[2:4]` matches among sites in loops; nothing if it is no such."""
    parts = PICK.fullmatch(pattern)
    if not parts or pattern.startswith("re:"):
        return {}
    found: dict[str, set[int] | None] = {}
    for site in sites:
        if "layer" in site.dims and _compile(parts["base"])(site):
            length = site.shape[site.dims.index("layer")]
            chosen = parts["pick"]
            where = (
                slice(*(int(part) if part else None for part in chosen.split(":"))) if ":" in chosen else int(chosen)
            )
            try:
                taken = range(length)[where]
            except IndexError:
                taken = range(0)
            iterations = {taken} if isinstance(taken, int) else set(taken)
            if not iterations:
                has = f"the loop of site {site.path!r} has {length} iterations, 0 to {length - 1}"
                raise CaptureError(f"{pattern!r}: {has}.")
            found[site.path] = iterations
    return found


def _keep(site: Site, iterations: set[int] | None) -> Site:
    if iterations is None:
        return site
    at = site.dims.index("layer")
    shape = (*site.shape[:at], len(iterations), *site.shape[at + 1 :])
    return replace(site, shape=shape, picked=tuple(sorted(iterations)))


def _no_match(pattern: str, sites: tuple[Site, ...]) -> str:
    if not sites:
        return (
            f"no site matches {pattern!r}: the function has no sites at all. Name a value with actigrad.tap(x, name)."
        )
    if pattern.startswith("type:"):
        known, what = sorted({site.kind for site in sites if site.kind}), "kinds of module"
        near = nearest(pattern.removeprefix("type:"), known)
    else:
        known, what = [site.path for site in sites], "sites"
        near = nearest(pattern.removeprefix("re:"), known)
    shown = ", ".join(repr(name) for name in (near or known[:8]))
    return f"no site matches {pattern!r}. The nearest of {len(known)} {what}: {shown}."


@lru_cache(maxsize=1024)
def _compile(pattern: str):
    if pattern.startswith("type:"):
        kinds = re.compile(_glob_to_regex(pattern.removeprefix("type:")))
        return lambda site: bool(site.kind) and kinds.fullmatch(site.kind) is not None
    source = pattern.removeprefix("re:") if pattern.startswith("re:") else _glob_to_regex(pattern)
    try:
        paths = re.compile(source)
    except re.error as error:
        raise CaptureError(f"the site pattern {pattern!r} is not a valid expression: {error}.") from error
    return lambda site: paths.fullmatch(site.path) is not None


def _glob_to_regex(pattern: str) -> str:
    return "|".join(f"(?s:{_one_glob(alternative)})" for alternative in _expand_braces(pattern))


def _expand_braces(pattern: str) -> list[str]:
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [whole for choice in found.group(1).split(",") for whole in _expand_braces(head + choice + tail)]


def _one_glob(pattern: str) -> str:
    """One glob as a regular expression; `fnmatch` knows character classes, but not that `*` stops at `/`."""
    out = ""
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern):
        if piece == "**/":
            out += "(?:.*/)?"
        elif piece == "**":
            out += ".*"
        elif piece == "*":
            out += "[^/]*"
        elif piece == "?":
            out += "[^/]"
        elif piece.startswith("["):
            out += fnmatch.translate(piece).removeprefix("(?s:").rsplit(")", 1)[0]
        else:
            out += re.escape(piece)
    return out


def _item_size(dtype: str) -> int:
    if dtype in ITEM_SIZES:
        return ITEM_SIZES[dtype]
    bits = re.search(r"(\d+)$", dtype)
    if not bits:
        return 4  # PRNG keys (`key<fry>`): two or four words; only a bound for tables
    return max(1, int(bits.group(1)) // 8)
