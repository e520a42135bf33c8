"""What the pages under docs/ say to type works."""

import re
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {page.stem: re.findall(r"```python\n(.*?)```", page.read_text(), re.S) for page in sorted(DOCS.glob("*.md"))}


@pytest.mark.parametrize("page", [page for page, snippets in PAGES.items() if snippets])
def test_the_snippets_of_a_page_run_one_after_another(page, tmp_path, monkeypatch, digits_store, capsys):
    shutil.copytree(digits_store, tmp_path / "runs/digits/digits.zarr")
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in PAGES[page]:
        exec(compile(snippet, f"{page}.md", "exec"), names)
        assert ("print(" in snippet) == bool(capsys.readouterr().out)


def test_links_between_pages_lead_somewhere():
    root = DOCS.parent
    for page in [*DOCS.glob("*.md"), root / "README.md", root / "CONTRIBUTING.md", root / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
