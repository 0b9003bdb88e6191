"""What stands beside the code: the citation, how to contribute, templates of issues."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import lineament

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "what the format requires"
    assert cited["version"] == lineament.__version__
    assert cited["license"] == project["license"]
    assert cited["keywords"] == project["keywords"]
    papers = {reference["identifiers"][0]["value"]: reference for reference in cited["references"]}
    assert set(papers) == {"arXiv:2606.10929", "arXiv:2607.16821"}
    for number, paper in papers.items():
        assert paper["url"].endswith(number.removeprefix("arXiv:"))
        assert [author["family-names"] for author in paper["authors"]] == ["Piontkovskaia", "Nikolenko"]


def test_contributing_names_files_and_commands_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"make ([a-z-]+)", text):
        assert target in targets, target
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / link).is_file(), link
    package = ROOT / "src" / "lineament"
    for name in re.findall(r"`([\w/]+(?:/|\.py|\.md))`", text):
        assert (ROOT / name).exists() or (package / name).exists() or name in ("site/", "flags.py"), name


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_of_issues_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    ids = [item["id"] for item in form["body"]]
    assert len(set(ids)) == len(ids) > 0
    assert all(item["attributes"]["label"] for item in form["body"])
    assert any(item.get("validations", {}).get("required") for item in form["body"])


def test_there_are_templates() -> None:
    assert len(TEMPLATES) == 3
