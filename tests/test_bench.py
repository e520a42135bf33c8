"""The benchmarks run and tell what they measured; what they measure is looked at by people, not by tests."""

import json
import math
import subprocess
import sys

import pytest


def test_the_capture_benchmark_measures_every_variant(root, tmp_path):
    words = ["--quick", "--models", "mlp", "--rounds", "2", "--compiles", "1", "--json", tmp_path / "ratios.json"]
    script = root / "scripts/bench/capture.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "ratios.json").read_text())
    variants = ["everything", "summaries", "no gradients", "summaries apart", "one sum"]
    assert [row["variant"] for row in rows] == variants
    for row in rows:
        assert all(
            math.isfinite(row[key]) and row[key] > 0 for key in ("time", "time_low", "time_high", "compile_time")
        )
        assert row["model"] == "MLP 2x32"
        assert f"{row['time']:.2f}" in done.stdout


def test_the_sites_of_seventy_billion_parameters_are_listed_within_a_gibibyte(root):
    script = root / "scripts/bench/sites.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["parameters"] > 70e9
    assert told["sites"] == 17
    assert told["peak_gib"] < 1


@pytest.mark.heavy
def test_the_recorder_benchmark_measures_every_rhythm(root, tmp_path):
    words = ["--quick", "--rounds", "2", "--steps", "4", "--every", "2", "4", "--json", tmp_path / "shares.json"]
    script = root / "scripts/bench/recorder.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "shares.json").read_text())
    assert [(row["model"], row["every"]) for row in rows] == [
        ("digits", 2),
        ("digits", 4),
        ("decoder", 2),
        ("decoder", 4),
    ]
    for row in rows:
        assert math.isfinite(row["time"])
        assert 0 < row["writing"] < 0.01
        assert f"{row['time']:.1%}" in done.stdout


@pytest.mark.heavy
def test_the_views_benchmark_measures_every_part_within_its_memory(root, tmp_path):
    script = root / "scripts/bench/views.py"
    words = ["--quick", "--huge", "--json", tmp_path / "views.json"]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    parts = json.loads((tmp_path / "views.json").read_text())
    assert list(parts) == [
        "build",
        "look",
        "hvplot",
        "imshow",
        "xarray.plot",
        "plotly",
        "similarity",
        "activity",
        "huge",
    ]
    assert not any("failed" in part for part in parts.values())
    assert parts["look"]["peak memory GB"] < 1
    assert "hvplot takes" in done.stdout


def test_the_streaming_benchmark_measures_every_way(root, tmp_path):
    script, told = root / "scripts/bench/stream.py", tmp_path / "ratios.json"
    words = ["--quick", "--folder", tmp_path, "--json", told]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    figures = json.loads(told.read_text())
    assert "loop over its slowest part" in figures
    for name, (_, median, _) in figures.items():
        assert median > 0
        assert f"{name:<32} {median:.2f}" in done.stdout


@pytest.mark.heavy
def test_the_memory_of_a_run_does_not_grow_with_its_samples(root, tmp_path):
    """What is stored is 8 MB and 160 MB, with at most 4 MiB between two commits."""
    peaks = []
    for samples in (4096, 20 * 4096):
        words = ["--peak", samples, "--segment", 4, "--width", 64, "--depth", 4, "--batch", 256, "--folder", tmp_path]
        command = [sys.executable, root / "scripts/bench/stream.py", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    assert peaks[1] <= 1.1 * peaks[0], peaks
