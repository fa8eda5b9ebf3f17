"""`cclm report`: what is drawn is what the files say, on a page that needs nothing else."""

import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from cclm import storage
from cclm.cli import main as cli
from cclm.curves.figure import is_alone, report_figure
from cclm.curves.overview import overview, rows_of_tests
from cclm.curves.panels import Section, sections_of
from cclm.curves.runs import distinct_names, read_runs
from cclm.events import Evaluated, Interval, Journal, Started, Validated
from cclm.metrics.log_file import LogFile, resumed_steps
from cclm.metrics.metrics_file import values_of

STARTED = {
    "total_steps": 100, "parameters": 1, "processes": 2, "device": "cpu", "threads": 1, "records": {"images": 5},
    "places": ("out",),
}  # fmt: skip


def interval(step: int, scale: float = 1.0, skipped: int = 0) -> Interval:
    losses = {"images/loss_itc": scale / step, "texts/loss_mlm": 2 * scale / step}
    if step % 20:
        del losses["texts/loss_mlm"]  # not every interval has batches of every kind
    return Interval(
        step=step, total_steps=100, losses=losses, lr=1e-4 * step, grad_norms={"images": 3.0 * scale},
        learnt={"temperature": 0.07}, images_per_second=100.0 * scale, texts_per_second=200.0 * scale, seconds=30.0,
        skipped={"images": skipped} if skipped else {},
    )  # fmt: skip


def retrieval(step: int, en: float, de: float) -> Evaluated:
    return Evaluated("retrieval", step, {"en": {"txt_r1": 1.0, "r_mean": en}, "de": {"txt_r1": 2.0, "r_mean": de}})


def make_run(folder: Path, *events, tail: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(values_of(event)) + "\n" for event in events)
    (folder / "metrics.jsonl").write_text(lines + tail)
    return folder


@pytest.fixture
def two_runs(tmp_path) -> list[str]:
    """The second is of fine-tuning and still being written."""
    first = make_run(
        tmp_path / "first", interval(10), interval(20, skipped=3), retrieval(20, 40.0, 20.0), interval(30, skipped=3),
        retrieval(30, 30.0, 10.0),
    )  # fmt: skip
    log = LogFile(first / "log.txt", Journal())
    log.handle(Started(task="pretrain", step=0, **STARTED))
    log.handle(Started(task="pretrain", step=20, **STARTED))
    second = make_run(
        tmp_path / "second", interval(20, scale=5.0),
        Validated("validation", 20, {"en": {"accuracy": 60.0}}, {"en": 9}),
        Evaluated("test", 20, {"en": {"accuracy": 50.0}, "ar": {"accuracy": 20.0}}, {"en": 9, "ar": 9}),
        tail='{"step": 30, "los',
    )  # fmt: skip
    return [str(first), str(second)]


def drawn(sections: list[Section]) -> dict[tuple[str, str, int], list[tuple[int, float]]]:
    """(section, panel, run) -> points"""
    return {
        (section.title, panel.title, curve.run): list(zip(curve.steps, curve.values, strict=True))
        for section in sections
        for panel in section.panels
        for curve in panel.curves
    }


def test_what_is_drawn_is_what_the_files_say(two_runs):
    curves = drawn(sections_of(read_runs(two_runs)))
    assert curves["Losses", "images: itc", 0] == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    assert curves["Losses", "images: itc", 1] == [(20, 0.25)]
    assert curves["Losses", "texts: mlm", 0] == [(20, 0.1)]
    assert curves["Optimisation", "learning rate", 0] == [(10, 1e-3), (20, 2e-3), (30, 3e-3)]
    assert curves["Optimisation", "gradient norm, images", 1] == [(20, 15.0)]
    assert curves["Optimisation", "temperature", 0] == [(10, 0.07), (20, 0.07), (30, 0.07)]
    assert curves["Speed and data", "throughput, images", 1] == [(20, 500.0)]
    assert curves["Speed and data", "throughput, texts", 0] == [(10, 200.0), (20, 200.0), (30, 200.0)]
    assert curves["Speed and data", "broken records left out so far", 0] == [(10, 0), (20, 3), (30, 3)]
    title = "Held-out retrieval: mean recall"
    assert curves[title, "mean", 0] == [(20, 30.0), (30, 20.0)] and curves[title, "de", 0] == [(20, 20.0), (30, 10.0)]
    assert curves["Validation: accuracy", "en", 1] == [(20, 60.0)]
    assert not any(section.startswith("test") for section, _, _ in curves)  # one value is no curve


def test_the_table_says_what_each_run_is(two_runs):
    runs = read_runs(two_runs)
    assert [run.name for run in runs] == ["first", "second"] and runs[0].resumed == (20,) and runs[1].resumed == ()
    rows = {row.label: row.cells for row in overview(runs)}
    assert rows["last step"] == ["30", "20"]
    assert rows["time in training"] == ["2 min", "30.0 s"]
    assert rows["went on from a checkpoint"] == ["once, after step 20", ""]
    assert rows["broken records"] == ["3", "0"]
    assert rows["best held-out retrieval, mean"] == ["r_mean 30.00 % at step 20", ""]
    assert rows["best validation, mean"] == ["", "accuracy 60.00 % at step 20"]
    assert rows["test, mean"] == ["", "accuracy 35.00 % at step 20"]
    assert rows["last loss, texts: mlm"] == ["0.1 at step 20", "0.5"]
    header, row = rows_of_tests(runs[1])
    assert header.cells == ["en", "ar", "mean", "mean without en"] and row.cells == ["50.00", "20.00", "35.00", "20.00"]
    assert rows_of_tests(runs[0]) == []


@pytest.mark.parametrize("task", ["pretrain", "retrieval"])
def test_the_log_tells_from_which_steps_a_run_went_on(tmp_path, task):
    log = LogFile(tmp_path / "log.txt", Journal())
    for step in (0, 20, 20, 40):
        log.handle(Started(task=task, step=step, **STARTED))
    assert resumed_steps((tmp_path / "log.txt").read_text()) == [20, 20, 40]


class Page(html.parser.HTMLParser):
    """Notes what a page loads or points to, its ids, and that elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                self.targets.append(value)
            elif name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in ("meta", "br"):
            assert self.open.pop() == tag


def test_page_and_picture(two_runs, tmp_path, capsys):
    odd = make_run(tmp_path / "_<i>$x$ & 日本", interval(10))
    outs = [str(tmp_path / "new" / f"report.{kind}") for kind in ("html", "png")]
    assert cli.run(["report", *two_runs, str(odd), "--out", outs[0], "--out", outs[1]]) == 0
    said = capsys.readouterr()
    assert said.out.split() == outs and said.err == ""
    text = Path(outs[0]).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert all(target.startswith("#") and target[1:] in page.ids for target in page.targets)
    assert {name for name in re.findall(r"url\(#([^)]*)\)", text)} <= set(page.ids)
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert text.count("<svg") == 5 and "_&lt;i&gt;$x$ &amp; 日本" in text and "<i>" not in text
    assert all(f">{word}<" in text for word in ("images: itc", "images/s", "percent", "first", "second", "Losses"))
    assert Path(outs[1]).read_bytes().startswith(b"\x89PNG")


def texts_of(folders: list[str], sections: list[Section]) -> list[Text]:
    """What a picture of runs says; where each text stands is known."""
    runs = read_runs(folders)
    figure = report_figure("cclm: a report", overview(runs), sections, runs)
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_text()]


def test_the_picture_says_what_the_page_says(two_runs, tmp_path):
    mixed = make_run(tmp_path / "mixed", interval(10), interval(30), interval(20))
    runs = [*two_runs, str(mixed)]
    shown = "".join(text.get_text() for text in texts_of(runs, sections_of(read_runs(runs)))).replace(" ", "")
    [note] = read_runs(runs)[2].notes
    expected = [note, *runs, "Tests of second", "images: itc"]
    for row in (*overview(read_runs(runs)), *rows_of_tests(read_runs(runs)[1])):
        expected += [row.label, *row.cells]
    assert [text for text in expected if text.replace(" ", "") not in shown] == []
    assert "Testsoffirst" not in shown


def test_texts_of_the_picture_do_not_overlap(tmp_path):
    """Runs with long names, which do not fit beside one another."""
    scores = {language: {"accuracy": 50.0} for language in [*"abcdefghijklmnopqrstu", "a-long-name" * 5]}
    folders = []
    for number in range(6):
        name = f"{number}-a run of a very long name with {'words' * 9} and a rest"
        test = Evaluated("test", 20, scores, dict.fromkeys(scores, 1))
        folders.append(str(make_run(tmp_path / name, interval(10), retrieval(20, 40.0, 20.0), test)))
    texts = [text for text in texts_of(folders, []) if isinstance(text.axes, Axes) and not text.axes.axison]
    boxes = np.array([text.get_window_extent().extents for text in texts])  # x0, y0, x1, y1
    assert len(boxes) > 100
    assert boxes[:, 0].min() >= 0 and boxes[:, 2].max() <= texts[0].figure.get_figure(root=True).bbox.width
    starts = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    ends = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlapping = ((ends - starts) > 2).all(axis=-1)
    assert (overlapping == np.eye(len(boxes), dtype=bool)).all()


def test_a_value_without_neighbours_is_marked():
    values = np.array([1.0, np.nan, 2.0, 3.0, np.nan, np.nan, 4.0])
    assert is_alone(values).tolist() == [True, False, False, False, False, False, True]
    assert is_alone(np.array([5.0])).tolist() == [True]


def test_a_single_point_of_a_curve_can_be_seen(tmp_path):
    run = str(make_run(tmp_path / "run", interval(10)))
    runs = read_runs([run])
    figure = report_figure("cclm: run", overview(runs), sections_of(runs), runs)
    panels = [axes for axes in figure.findobj(Axes) if axes.axison]
    assert panels
    for axes in panels:
        points = [line for line in axes.get_lines() if len(line.get_xdata()) and line.get_marker() == "o"]
        assert [line.get_xdata().tolist() for line in points if line.get_markersize() >= 6] == [[10.0]]


def test_runs_and_reports_may_be_in_a_store(two_runs):
    for number, folder in enumerate(two_runs):
        for path in Path(folder).iterdir():
            storage.write_atomic(f"memory://report/{number}/{path.name}", path.read_bytes())
    urls = ["memory://report/0", "memory://report/1/"]
    runs = read_runs(urls)
    assert drawn(sections_of(runs)) == drawn(sections_of(read_runs(two_runs)))
    assert [run.name for run in runs] == ["0", "1"] and runs[0].resumed == (20,)
    assert cli.run(["report", *urls, "--out", "memory://report/page.html"]) == 0
    assert b"Losses" in storage.read_bytes("memory://report/page.html")


def test_a_run_that_was_only_tested_has_a_table(tmp_path, capsys):
    run = make_run(tmp_path / "tested", Evaluated("test", 0, {"en": {"accuracy": 50.0}}, {"en": 2}))
    outs = [str(tmp_path / f"r.{kind}") for kind in ("html", "png")]
    assert cli.run(["report", str(run), "--out", outs[0], "--out", outs[1]]) == 0
    assert "<svg" not in Path(outs[0]).read_text() and "50.00" in Path(outs[0]).read_text()


def test_losses_that_are_not_finite_and_long_runs_can_be_drawn(tmp_path):
    events = [interval(step, scale=math.nan if step == 5 else math.inf if step == 9 else 1.0) for step in range(1, 300)]
    run = make_run(tmp_path / "long", *events)
    assert cli.run(["report", str(run), "--out", str(tmp_path / "r.html"), "--out", str(tmp_path / "r.png")]) == 0


def test_lines_of_two_runs_and_broken_ones_are_said_and_the_newer_are_drawn(tmp_path, capsys):
    run = make_run(tmp_path / "mixed", interval(10), interval(30), interval(20, scale=7.0))
    with (run / "metrics.jsonl").open("a") as file:
        file.write("}\n")
    assert cli.run(["report", str(run), "--out", str(tmp_path / "r.html")]) == 0
    back, broken = capsys.readouterr().err.splitlines()
    assert back.endswith("goes from step 30 back to 20: it holds lines of several runs; the newer ones are drawn")
    assert broken.endswith("has 1 line that is no JSON object with a step; left out")
    assert back.partition(": ")[2] in (tmp_path / "r.html").read_text()
    assert drawn(sections_of(read_runs([str(run)])))["Losses", "images: itc", 0] == [(10, 0.1), (20, 0.35)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nowhere", "there is no folder nowhere; name the folder of a run, its output_dir"),
        ("empty", "empty holds no metrics.jsonl, so it is not the folder of a run; name the run's output_dir"),
        ("file", "file is a file; name the folder of a run, its output_dir"),
        ("begun", "begun/metrics.jsonl holds no numbers yet: a run writes them at the end of each logging interval"),
        ("run --out x.pdf", "--out x.pdf: a report is a page, FILE.html, or a picture, FILE.png"),
        ("run --out taken.html", "--out taken.html is a folder; name a file"),
        (
            "run --out file/x.html",
            "--out file/x.html cannot be written (File exists); name a file in a folder that takes it",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "begun", "taken.html"):
        Path(folder).mkdir()
    Path("file").touch()
    Path("begun/metrics.jsonl").touch()
    make_run(Path("run"), interval(10))
    before = sorted(tmp_path.rglob("*"))
    assert cli.run(["report", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"cclm: error: {sentence}") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_without_matplotlib_a_sentence_says_what_to_install(two_runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.run(["report", *two_runs]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_reading_and_drawing_need_no_torch():
    script = "import sys, cclm.cli.report, cclm.curves.page, cclm.curves.runs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_names_tell_runs_apart(tmp_path, monkeypatch):
    assert distinct_names(["a/x", "b/x", "c"]) == ["a/x", "b/x", "c"]
    assert distinct_names(["s3://bucket/runs/x", "runs/x"]) == ["bucket/runs/x", "runs/x"]
    assert distinct_names(["/a/x", "/x", "/"]) == ["a/x", "x", "/"]
    monkeypatch.chdir(make_run(tmp_path / "here", interval(10)))
    run = make_run(tmp_path / "run", interval(10))
    names = [run.name for run in read_runs([str(run), f"{run}/", f"{run}/metrics.jsonl", "metrics.jsonl"])]
    assert names == ["run", "here"]


def test_running_mean():
    from cclm.curves.figure import running_mean

    values = np.array([1.0, np.nan, 3.0, 5.0])
    assert running_mean(values, 1).tolist()[2:] == [3.0, 5.0]
    assert running_mean(values, 3).tolist() == [1.0, 2.0, 4.0, 4.0]
    assert np.isnan(running_mean(np.array([np.nan]), 3)).all()
