"""What the pages say of the verdicts is what results/ holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from docs import make_results
from docs.make_results import BLOCK, PAGES, RESULTS, block, with_verdicts
from noisescale.app.claims import names_of_claims
from noisescale.studies.claims.kept import verdicts_in
from noisescale.studies.claims.published import FINDING
from tests.helpers.pages import name
from tests.helpers.repository import CONF

VERDICTS = verdicts_in(RESULTS)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_says_what_came_out(page: Path) -> None:
    assert page.read_text() == with_verdicts(page, VERDICTS), "results/ has changed: make docs"


def test_the_page_of_all_verdicts_is_made_of_them() -> None:
    assert (RESULTS / "README.md").read_text() == make_results.summary(), "results/ has changed: make docs"


@pytest.mark.parametrize("claim", sorted(VERDICTS))
def test_a_verdict_is_of_a_claim_and_has_its_words_and_its_evidence(claim: str) -> None:
    assert claim in names_of_claims(CONF)
    folder = RESULTS / claim
    assert VERDICTS[claim]["scale"] == make_results.SCALE
    assert {FINDING, "README.md", "claim.png", "values.csv"} <= {file.name for file in folder.iterdir()}
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 1_000_000
    assert not [*folder.rglob("*.ckpt")]


def verdict(word: str, **values: Any) -> dict[str, Any]:
    check = {"status": "holds", "effect": 0.995, "low": 0.985, "high": 1.005, "of": "loss: a / b", "claimed": "< 2", "control": False}
    return {"verdict": word, "checks": {"same": check, "seen": {**check, "control": True, "effect": None}}, "values": values}


def test_blocks() -> None:
    verdicts = {"dual": verdict("supported", updates={"a": [100.0, 100.0]}, acc={"a": [0.98, 0.982]}), "decay": verdict("inconclusive")}
    assert block("counts", verdicts, "results/") == (
        "Of 2 claims, 1 is supported, 0 are not supported, and 1 is inconclusive: [the verdicts](results/README.md)."
    )
    assert block("lists", verdicts, "") == (
        "- Supported: [dual](dual/README.md).\n- Not supported: none.\n- Inconclusive: [decay](decay/README.md)."
    )
    assert block("checks dual: same", verdicts, "").splitlines()[2] == "| loss: a / b | 0.995 | 0.985 to 1.005 | < 2 | holds |"
    assert len(block("checks dual", verdicts, "").splitlines()) == 4
    assert block("arms dual: a: updates, acc", verdicts, "").splitlines()[2] == "| a | 100 | 0.981 +- 0.0014 |"
    ratios = {key: {"ratio": 0.5, "low": 0.5, "high": 0.5} for key in ("updates", "seconds")}
    costs = {"dual": {**verdicts["dual"], "costs": {"a / b": ratios}}}
    assert block("costs dual", costs, "").splitlines()[2:] == ["| dual | a / b | 0.5 | 0.5 | 0.5 to 0.5 |"]
    with pytest.raises(ValueError, match="no such block"):
        block("tables dual", verdicts, "")


def test_a_page_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "claims.md"
    page.write_text("| `dual` | It is. | not run |\n| `decay` | So. | x |\n\n<!-- verdicts: counts -->\nold\n<!-- /verdicts -->\n")
    monkeypatch.setattr(make_results, "CLAIMS", page)
    text = with_verdicts(page, {"dual": verdict("supported")})
    assert "| `dual` | It is. | [supported](../results/dual/README.md) |\n| `decay` | So. | not run |" in text
    assert "-->\nOf 1 claims, 1 is supported" in text
    assert "old" not in text
    page.write_text(text)
    assert with_verdicts(page, {"dual": verdict("supported")}) == text
    assert BLOCK.findall(text)[0][1] == "counts"
