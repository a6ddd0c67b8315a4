"""report.py as a user runs it: what it writes, and what it answers to bad input."""

from __future__ import annotations

import base64
import re
import signal
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from noisescale.app.report import main
from tests.helpers.runs import leave_run

NASTY = "name='<script>$x|y*</script>'"


class Page(HTMLParser):
    """The rows of the tables of a page, its elements, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.values: list[str | None] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in ("img", "meta"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.values += [value for name, value in attrs if name == "data-value"]
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms, of which one has a run that diverged and one that was killed in the middle of a row; and two folders without a run."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in range(3):
        leave_run(folder / str(seed), [f"seed={seed}", NASTY], final=0.9 + seed / 100)
    leave_run(folder / "3", ["seed=0", "optimizer.lr=0.2", NASTY])
    leave_run(folder / "4", ["seed=1", "optimizer.lr=0.2", NASTY], status="diverged", final=None, epochs=1)
    steps = leave_run(folder / "5", ["seed=2", "optimizer.lr=0.2", "name=z"], status=None, epochs=2) / "steps.csv"
    steps.write_bytes(steps.read_bytes()[:-9])
    (folder / "6").mkdir()
    (folder / "7" / ".hydra").mkdir(parents=True)
    (folder / "multirun.yaml").touch()
    return folder


@pytest.fixture(scope="module")
def report(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(the folder of its report, stdout, stderr)."""
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO

    out, err, folder = StringIO(), StringIO(), tmp_path_factory.mktemp("report")
    (folder / "curves-3.png").touch()
    with redirect_stdout(out), redirect_stderr(err):
        assert main([str(sweep), "--out", str(folder)]) == 0
    return folder, out.getvalue(), err.getvalue()


def test_it_prints_the_table_and_what_a_reader_would_not_see(report: tuple[Path, str, str], sweep: Path) -> None:
    _, out, err = report
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    label = NASTY[6:-1]
    assert rows == [
        [label, "0.1", "3", "0.9100 +- 0.0100", "0.3333 +- 0.0000", "24", "2.0", "3 completed"],
        [label, "0.2", "1 of 2", "0.9000", "0.3333", "24", "2.0", "1 completed, 1 diverged"],
        ["z", "0.2", "0 of 1", "", "", "15", "1.0", "1 half-written"],
    ]
    assert out.splitlines()[-2] == "6 runs in 3 arms: 4 completed, 1 diverged, 1 half-written"
    assert out.splitlines()[-1].endswith("report.html")
    (line,) = err.splitlines()
    assert line.startswith("note: no training was started in ")
    assert line.endswith("7")


def test_the_page_needs_no_other_file_and_no_network(report: tuple[Path, str, str]) -> None:
    folder = report[0]
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert page.elements.count("script") == 1, "a name was taken for HTML"
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    pictures = [(folder / name).read_bytes() for name in ("finals.png", "curves.png", "schedules.png")]
    assert all(data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 5000 for data in pictures)
    assert [base64.b64decode(each.removeprefix("data:image/png;base64,")) for each in page.loaded] == pictures
    assert len({len(row) for row in page.rows[:4]}) == 1
    assert "0.91" in page.values, "sorted by the number, not by `0.9100 ± 0.0100`"
    assert [page.rows[9][0].rpartition("/")[2], *page.rows[9][3:5]] == ["4", "diverged", "no"]


def test_the_markdown_has_the_same_rows(report: tuple[Path, str, str]) -> None:
    folder = report[0]
    tokens = MarkdownIt("commonmark").enable("table").parse((folder / "report.md").read_text())
    assert not [token for token in tokens for part in (token, *(token.children or [])) if part.type.startswith("html_")]
    inlines = [token for token in tokens if token.type == "inline"]
    images = [part.attrs["src"] for token in inlines for part in token.children or [] if part.type == "image"]
    assert images == ["finals.png", "curves.png", "schedules.png"]
    texts = ["".join(part.content for part in token.children or []) for token in inlines]
    assert NASTY[6:-1] in texts
    assert "0.9100 +- 0.0100" in texts
    assert sum(token.type == "tr_open" for token in tokens) == 1 + 3 + 1 + 6


def test_the_runs_are_only_read_and_nothing_else_is_left(report: tuple[Path, str, str], sweep: Path) -> None:
    """A picture of an earlier report in the same folder is removed."""
    assert sorted(path.name for path in report[0].iterdir()) == ["curves.png", "finals.png", "report.html", "report.md", "schedules.png"]
    assert sorted(path.name for path in sweep.iterdir()) == [*map(str, range(8)), "multirun.yaml"]
    assert {path.name for path in (sweep / "0").iterdir()} == {".hydra", ".run.json", "epochs.csv", "results.json", "steps.csv"}


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([], 2, "error: the following arguments are required: DIR; python report.py --help shows what there is"),
        (["nope"], 2, "error: nope: is not a folder"),
        (["nope*"], 2, "error: nope*: matches nothing"),
        (["multirun.yaml"], 2, "error: multirun.yaml: is not a folder"),
        (["6", "7"], 2, "error: 6, 7: no training was started there"),
        (["0", "--ou", "x"], 2, "error: unrecognized arguments: --ou x; python report.py --help shows what there is"),
        (["0", "--out"], 2, "error: argument --out: expected one argument; python report.py --help shows what there is"),
        (["0", "--out", "multirun.yaml/x"], 4, "error: multirun.yaml/x: cannot be written (Not a directory)"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], status: int, line: str, sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(sweep)
    try:
        found: object = main(words)
    except SystemExit as exit:
        found = exit.code
    assert (found, capsys.readouterr().err.splitlines()) == (status, [line])


@pytest.mark.slow
def test_a_star_is_a_set_of_folders_and_the_usual_place_is_below_outputs(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By the shell, which also names the files, and by report.py if the star was quoted; a run that is named twice is one."""
    monkeypatch.chdir(tmp_path)
    for words in ([f"{sweep}/*"], [*map(str, sorted(sweep.iterdir()))], [f"{sweep}/0", f"{sweep}/0", str(sweep)]):
        assert main(words) == 0
        assert "6 runs in 3 arms" in capsys.readouterr().out
    assert len([*tmp_path.glob("outputs/report/*/report.html")]) == 3


@pytest.mark.slow
def test_many_arms_are_drawn_in_several_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(26):
        leave_run(tmp_path / "runs" / str(number), [f"optimizer.lr={(number + 1) / 100}"], final=0.5 + number / 100)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "note: 24 of 26 arms are drawn: those with the best test accuracy" in capsys.readouterr().err
    assert len([*(tmp_path / "out").glob("*.png")]) == 1 + 3 + 3


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        (
            "branches",
            "branches.png and branches.csv have what was found; its command with hydra.run.dir={folder} shows the table",
        ),
        ("recommend", "recommendation.md has what was found; its command with hydra.run.dir={folder} shows it"),
        ("range_test", "range_test.png and range_test.json have what was found"),
        ("curvature", "curvature.json, or line.csv and line.png, have what was measured"),
        ("plan", "plan.png and plan.csv show it"),
    ],
)
def test_the_folder_of_a_study_is_one_line_that_says_what_shows_it(
    program: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = Path("outputs", program, "a")
    study.mkdir(parents=True)
    if program == "curvature":  # which records no configuration
        (study / "curvature.json").write_text("{}")
    else:
        (study / ".hydra").mkdir()
        (study / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  job:\n    name: {program}\n")
    kind = "a plan" if program == "plan" else "a study"
    expected = f"error: {study}: is the folder of {kind} by {program}.py, not of a training; {shown.format(folder=study)}\n"
    for given in (study, Path("outputs")):
        assert main([str(given)]) == 2
        assert capsys.readouterr() == ("", expected)


def test_a_study_beside_runs_is_no_run_that_did_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_run(tmp_path / "run", ["seed=0"])
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "line.csv").write_text("t,loss\n")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "no training was started" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_report_that_is_interrupted_is_one_line(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, default_handlers: None
) -> None:
    leave_run(tmp_path / "run", ["seed=0"])
    monkeypatch.setattr("noisescale.app.report._report", lambda *_: signal.raise_signal(number))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 128 + number
    assert capsys.readouterr().err == f"error: interrupted by {number.name}; the same command writes the report\n"
