"""The pages are consistent: links work, options.md is current, the command comes first, and counts are those of the experiments."""

from __future__ import annotations

import importlib
import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from docs import make_options
from noisescale.app.listing import CLAIMS
from tests.helpers.pages import PAGES, name, prose
from tests.helpers.repository import REPOSITORY

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
each = pytest.mark.parametrize("page", PAGES, ids=name)


def links(page: Path) -> list[str]:
    return ["".join(found) for found in LINK.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    found = links(page)
    for link in found:
        assert not link.startswith(("http:", "https:", "/")), link
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    assert found or page.name == "sources.md"


def test_every_page_and_figure_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            paths = (link.partition("#")[0] for link in links(page))
            waiting += [(page.parent / path).resolve() for path in paths if path]
    assert {*PAGES, *(REPOSITORY / "docs").glob("*.png")} <= reached


@each
def test_every_figure_has_words_for_those_who_do_not_see_it(page: Path) -> None:
    text = prose(page)
    words = re.findall(r"!\[([^\]]*)\]|<img [^>]*alt=\"([^\"]*)\">", text)
    assert len(words) == text.count("![") + text.count("<img")
    assert all(len("".join(alt)) > 20 for alt in words)


def test_the_readme_is_short_and_starts_with_what_it_is_for() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines) <= 140
    first_screen = lines[:40]
    assert "docs/plan.png" in "".join(first_screen)
    assert [line.split()[1] for line in first_screen if line.startswith("python ")] == ["train.py", "plan.py", "train.py"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=name)
def test_the_command_comes_first(page: Path) -> None:
    title, blank, fence, command = page.read_text().splitlines()[:4]
    assert title.startswith("# ")
    assert (blank, fence) == ("", "```bash")
    assert command.startswith(("python ", "make ", "pip "))


@each
def test_tables_are_tables(page: Path) -> None:
    """Each row has as many cells as its header, and no text is mistaken for HTML."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    html = [part.content for token in tokens for part in (token, *(token.children or [])) if part.type.startswith("html_")]
    assert [tag for tag in html if not tag.startswith(("<img ", "<!-- verdicts: ", "<!-- /verdicts -->"))] == []
    starts = [i for i, token in enumerate(tokens) if token.type == "table_open"]
    rows = [line for line in prose(page).splitlines() if line.startswith("|")]
    assert len(rows) == 0 or starts
    width = 0
    for row, following in pairwise([*rows, ""]):
        if re.fullmatch(r"[|\- ]+", following):
            width = following.count("|")
        assert len(re.findall(r"(?<!\\)\|", row)) == width, row


def test_the_options_are_those_of_conf() -> None:
    assert make_options.PAGE.read_text() == make_options.page(), "conf/ has changed: make docs"


def test_the_options_page_has_every_option_and_every_key() -> None:
    page = make_options.PAGE.read_text()
    for file in (REPOSITORY / "conf").rglob("[!_]*.yaml"):
        group, _, option = file.relative_to(REPOSITORY / "conf").with_suffix("").as_posix().partition("/")
        assert not option or group == CLAIMS or f"\n### {group}={option}\n" in page
    for key in ("scheduler.T_max", "batch.last", "batch.rule", "data.val_fraction", "model.compile", "trainer.max_steps"):
        assert page.count(f"\n| `{key}` |") >= 1
    assert "`weight_decay`" not in re.sub(r"`optimizer\.weight_decay=[\d.]+", "", page)


def test_the_counts_of_the_pairs_are_those_of_the_experiments() -> None:
    """docs/dual.md quotes the number of updates that each experiment file states; another test compares that number with the plan."""
    rows = re.findall(r"^\| (`[^|]*`) \| [^|]* \| ([\d, ]+) \|$", (REPOSITORY / "docs" / "dual.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 6
    for names, counts in rows:
        words = re.findall(r"`([^`]+)`", names)
        folder = words[0].rpartition("/")[0]
        for word, count in zip(words, counts.split(", "), strict=False):
            path = word if "/" in word or not folder else f"{folder}/{word}"
            stated = (REPOSITORY / "conf" / "experiment" / f"{path}.yaml").read_text()
            assert f"Plan: {count} updates" in stated


@pytest.mark.parametrize("script", sorted((REPOSITORY / "docs").glob("draw_*.py")), ids=lambda path: path.stem)
def test_what_a_script_of_the_figures_imports_is_there(script: Path) -> None:
    """These scripts are run by hand, so without this test nobody would notice an import that no longer works."""
    if "bs_scheduler" in script.stem:
        pytest.importorskip("bs_scheduler", reason="of the extra `peers`")
    assert callable(importlib.import_module(f"docs.{script.stem}").main)
