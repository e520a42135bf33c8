"""Costs: what of a template takes the room, and which setting of the config would shrink it.

for cost in costliest(template):
print(cost)           # head/0: 1.20 GB; `steps: last` instead of `all` in its rule leaves 0.10 GB
"""

from collections.abc import Mapping
from dataclasses import dataclass

from actigrad.storage.template import ArraySpec, Template


@dataclass(frozen=True)
class Cost:
    """What one site, input or parameter takes before compression, and how to make that less.

    Attributes:
        path: its name.
        nbytes: of all its arrays.
        cure: a setting.
        left: bytes that would be left; None where that is not known.
    """

    path: str
    nbytes: int
    cure: str
    left: int | None

    def __str__(self) -> str:
        """One line."""
        left = "" if self.left is None else f" leaves {self.left / 1e9:.3f} GB"
        return f"{self.path}: {self.nbytes / 1e9:.3f} GB; {self.cure}{left}"


def costliest(template: Template, n: int = 3) -> list[Cost]:
    """The `n` that take the most, largest first."""
    found: dict[str, list[ArraySpec]] = {}
    for name, spec in template.arrays.items():
        owner = name.rpartition("/")[0].partition("/levels/natural/")[0].removesuffix("/full").removesuffix("/summary")
        found.setdefault(owner, []).append(spec)
    costs = [_cost(owner, specs, template.groups) for owner, specs in found.items()]
    return sorted(costs, key=lambda cost: -cost.nbytes)[:n]


def _cost(owner: str, specs: list[ArraySpec], groups: Mapping[str, Mapping[str, object]]) -> Cost:
    kind, _, name = owner.partition("/")
    path = str(groups.get(owner, {}).get("path", name or owner))
    total = sum(spec.nbytes for spec in specs)
    kept = ("/full/", "/levels/")
    full = [spec for spec in specs if any(k in spec.path for k in kept) and spec.path.rpartition("/")[2] != "step"]
    rest = total - sum(spec.nbytes for spec in full)
    if kind == "samples":
        return Cost("what is known of each sample", total, "a smaller data.samples", None)
    if kind == "inputs":
        return Cost(f"input {path}", total, "`inputs: {keep: none}`", 0)
    if kind == "parameters":
        cure = ("`parameters: {keep: summary}`", rest) if full else ("`parameters: {keep: none}`", 0)
        return Cost(f"parameter {path}", total, *cure)
    if any(spec.shape[0] > 1 for spec in full):
        once = sum(spec.nbytes // spec.shape[0] for spec in full)
        return Cost(path, total, "`steps: last` in place of `all` in its rule", rest + once)
    if full:
        return Cost(path, total, "`keep: summary` in its rule", rest)
    return Cost(path, total, "a larger train.record_every, or `exclude` it", None)
