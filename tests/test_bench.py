"""The benchmarks run and tell what they measured; what they measure is looked at by people, not by tests."""

import json
import math
import subprocess
import sys


def test_the_capture_benchmark_measures_every_variant(root, tmp_path):
    words = ["--quick", "--models", "mlp", "--rounds", "2", "--compiles", "1", "--json", tmp_path / "ratios.json"]
    script = root / "scripts/bench/capture.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "ratios.json").read_text())
    variants = ["everything", "summaries", "no gradients", "summaries apart", "one sum"]
    assert [row["variant"] for row in rows] == variants
    for row in rows:
        assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("time", "time_low", "time_high", "compile_time"))
        assert row["model"] == "MLP 2x32"
        assert f"{row['time']:.2f}" in done.stdout
