"""The overview of the claims that were carried out at one scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from noisescale.files import write_atomically
from noisescale.studies.claims.figure import draw_overview
from noisescale.studies.claims.kept import FILE, read_verdict
from noisescale.studies.claims.page import RULE, cell
from noisescale.studies.markdown_page import write_html

__all__ = ["NOT_RUN", "write_overview"]

NOT_RUN = "not run"


def write_overview(folder: Path, names: Mapping[str, str], title: str) -> Path:
    """Write overview.md, the same as overview.html, and overview.png from the verdicts in the folders of the claims; returns the page.

    Args:
        folder: that of one scale, and of one first seed.
        names: all claims, also those that have not been run, each with the fingerprint that it has now.
        title: its heading.
    """
    found = {name: read_verdict(folder / name / FILE) for name in names}
    lines = ["| claim | verdict | checks: hold, open, fail | n | seconds |", "| --- | --- | --- | --- | --- |"]
    for name, each in found.items():
        if each is None:
            lines.append(f"| {name} | {NOT_RUN} | | | |")
            continue
        states = [check["status"] for check in each["checks"].values()]
        counts = ", ".join(str(states.count(state)) for state in ("holds", "open", "fails"))
        changed = "" if each.get("fingerprint") == names[name] else "; the claim has changed since: run it again"
        verdict = f"**{each['verdict']}**: {cell(each['why'])}{changed}"
        sentence = f"[{name}]({name}/claim.md): {cell(each['sentence'])}"
        lines.append(f"| {sentence} | {verdict} | {counts} | {each['seeds']} | {each['seconds']:.0f} |")
    folder.mkdir(parents=True, exist_ok=True)
    draw_overview(found, folder / "overview.png")
    text = [f"# {title}", "![the verdicts](overview.png)", "\n".join(lines), RULE]
    write_atomically(folder / "overview.md", "\n\n".join(text) + "\n")
    write_html("\n\n".join(text), folder / "overview.html")
    return folder / "overview.md"
