"""Findings: what a person should know first of a run, by rules over the stored summaries; NumPy and no JAX.

    record = measure(open_store("runs/digits/digits.zarr"))
    for finding in judge(record):
        finding.severity, finding.site, finding.step, finding.text

Each rule is a function from a `Record` (a few numbers of each site and recorded step) to `Finding`s. Only summaries are
read, some steps of one site at a time: memory does not grow with the store.
"""

from actigrad.findings.measures import Measures, Numbers, Record, measure, parameter_nodes, site_nodes, split_samples
from actigrad.findings.rules import RULES, Finding, Rule, in_order, judge

__all__ = [
    "RULES",
    "Finding",
    "Measures",
    "Numbers",
    "Record",
    "Rule",
    "in_order",
    "judge",
    "measure",
    "parameter_nodes",
    "site_nodes",
    "split_samples",
]
