"""Reports from runs that are made up: numbers, marks, what is missing, and pages that need nothing else."""
import csv
import re

import pytest
from reproduce_tools import TINY, made_up, write_tiny

from convnet.cli import main
from convnet.reproduce.jobs import cells, wanted
from convnet.reproduce.notes import duration
from convnet.reproduce.reading import find
from convnet.reproduce.report import build, write
from convnet.reproduce.scales import scaled
from convnet.reproduce.store import Store

MACHINE = {"host": "h", "system": "Linux", "python": "3.12", "processor": "A processor", "cores": 4, "threads": 1,
           "kernels": "fast", "versions": {"convnet": "0.1.0", "numpy": "2"}}


def filled(tmp_path, text=TINY, seeds=5, errors=None, **settings):
    """Return an experiment and a store in which all of it has finished."""
    definition = scaled(find(str(write_tiny(tmp_path, text))), "full", seeds=seeds)
    store = Store(tmp_path / "store")
    errors = errors or (lambda job: 0.05 + 0.001 * job.seed - (0.02 if "ibp" in job.spec else 0.0))
    while True:
        runs = store.runs()
        todo = [job for job in wanted(cells(definition, runs)) if job.key not in runs]
        if not todo:
            return definition, store
        for job in todo:
            made_up(store, job, errors(job), seconds=2.0 if "ibp" in job.spec else 1.0, **settings)
            store.note(job.key, {"problem": None, "seconds": 30.0, "machine": MACHINE})


def test_a_line_shows_our_numbers_beside_the_papers(tmp_path):
    report = build(*filled(tmp_path), command="convnet reproduce tiny")
    (part, _, (bp, ibp)), noise = report.tables
    assert part == "digits"
    assert noise == ("digits: test error in % under Gaussian noise of deviation σ", ("", "σ = 0.1"),
                     [["Standard BP", "10.40 ± 0.32"], ["Loss IBP", "6.40 ± 0.32"]])
    # Means of 5.0 to 5.4 and 3.0 to 3.4 with a deviation of 0.158, five runs each that do not overlap: p = 2 / 252.
    assert bp == ["Standard BP", "5.20 ± 0.16", "5 ± 0.1", "5.00 to 5.40", "", "", "", "1", "1.00", "1.00", "5 of 5"]
    assert ibp == ["Loss IBP", "3.20 ± 0.16 ★", "4 ★", "3.00 to 3.40", "0.008", "0.01", "0.1", "2", "2.00", "1.50", "5 of 5"]
    assert not report.missing
    assert "machine: A processor, 4 cores, 1 threads a job, Python 3.12, Linux (13 jobs)" in report.facts
    # Two epochs each: five runs of 1 s an epoch, and eight of 2 s.
    assert "time spent in training: 42 s in 13 runs, one after another" in report.facts
    assert not any("under different load" in note for note in report.notes)


def test_with_three_seeds_no_star_is_possible_and_the_report_says_so(tmp_path):
    report = build(*filled(tmp_path, seeds=3))
    assert "★" not in report.tables[0].rows[1][1]
    assert any("With 3 and 3 runs the exact test cannot go below p = 0.1: no star is possible" in note for note in report.notes)


def test_stars_and_loads_are_judged_by_what_has_finished(tmp_path):
    definition, store = filled(tmp_path, seeds=2)
    more = scaled(definition, "full", seeds=10)
    job = wanted(cells(more, store.runs()))[-1]
    made_up(store, job, 0.03, seconds=2.5)
    notes = build(more, store).notes
    assert any("With 3 and 2 runs the exact test cannot go below p = 0.2: no star is possible" in note for note in notes)
    assert "digits, Loss IBP: the seeds took from 2 to 2.5 s per epoch, under different load." in notes


def test_where_nothing_was_chosen_the_report_says_so(tmp_path):
    definition = scaled(find(str(write_tiny(tmp_path))), "quick")
    notes = " ".join(build(definition, Store(tmp_path / "store")).notes)
    assert "Where only one coefficient is tried, it is the paper's" in notes
    assert "cross-validation" not in notes
    assert "no star is possible" not in notes


def test_what_is_ours_is_not_put_into_a_papers_mouth(tmp_path):
    store = Store(tmp_path / "store")
    paper, ours = (find(str(write_tiny(tmp_path, TINY.replace("001/002", name)))) for name in ("003", "ours"))
    text = write(build(paper, store), tmp_path / "out")[1].read_text()
    assert "Table 1, section 5.1 of paper 003 (N. Thumwanit: Study of noise injection" in text
    assert "## What the paper says" in text and "## What the paper leaves open" in text
    text = write(build(ours, store), tmp_path / "out")[1].read_text()
    assert "Table 1, an experiment of our own. " in text
    other = find(str(write_tiny(tmp_path, TINY.replace("001/002", "by Smith"))))
    heading = write(build(other, store), tmp_path / "out")[1].read_text().splitlines()[2]
    assert heading.startswith("Table 1, section 5.1 of paper by Smith. ")
    assert "What the paper" not in text


def test_what_is_missing_stands_there_with_its_reason(tmp_path):
    definition = find(str(write_tiny(tmp_path)))
    store = Store(tmp_path / "store")
    jobs = wanted(cells(definition, {}))
    made_up(store, jobs[-1], 0.1)
    store.note(jobs[0].key, {"problem": "its process was ended by SIGKILL", "seconds": None, "machine": None})
    report = build(definition, store, skipped={"other": "no data"})
    assert report.missing[0] == "other: no data"
    assert "digits: bp, 1 final run" in report.missing
    assert "digits: Loss IBP, 2 final runs, once its coefficient is chosen" in report.missing
    assert f"{jobs[0].label} failed: its process was ended by SIGKILL" in report.missing
    assert report.tables[0].rows[0][-1] == "1 of 2"


def test_selection_scale_and_doubtful_choices_are_said(tmp_path):
    definition, store = filled(tmp_path, errors=lambda job: 0.1)
    notes = " ".join(build(definition, store).notes)
    assert "Scale full: seeds = 5." in notes
    assert "cross-validation inside the training images (1 of 3 folds" in notes
    assert "the chosen beta = 0.01 is at the end of what was tried" in notes
    assert "validation errors by beta: 0.01: 10.00 %, 0.1: 10.00 %, 1: 10.00 %" in notes
    assert "ON THE TEST IMAGES" in " ".join(build(definition, store, on_test=True).notes)


def test_failed_runs_are_left_out_and_counted(tmp_path):
    definition, store = filled(tmp_path, seeds=2)
    job = wanted(cells(definition, store.runs()))[-1]
    made_up(store, job, None, problem="the loss is nan")
    report = build(definition, store)
    assert any("1 of 2 runs stopped at a loss that is not finite" in note for note in report.notes)
    assert report.tables[0].rows[1][1] == "3.00"


def test_runs_of_different_data_are_pointed_at(tmp_path):
    definition, store = filled(tmp_path, seeds=2)
    made_up(store, wanted(cells(definition, store.runs()))[-1], 0.1, data="other", kernels="zzz", version="9")
    facts = build(definition, store).facts
    assert any(fact.startswith("WARNING: the runs were made of different files") for fact in facts)
    assert "kernels: fast, zzz" in facts


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path):
    definition, store = filled(tmp_path, seeds=2)
    page, markdown, raw, *images = write(build(definition, store, command="convnet reproduce <x>"), tmp_path / "out")
    text = page.read_text()
    assert len(images) == 3
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.count("data:image/png;base64,") == 3
    assert "It is &lt;small&gt;." in text
    assert "<code>convnet reproduce &lt;x&gt;</code>" in text
    lines = markdown.read_text().splitlines()
    assert lines[2].startswith("Table 1, section 5.1 of paper 001/002 (S. Demyanov, ")
    assert lines[2].endswith(". **Scale full: seeds = 2.**")
    assert [line.count("|") for line in lines if line.startswith("|")] == [12] * 4 + [3] * 4
    with raw.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["algorithm"] for row in rows] == ["Standard BP"] * 2 + ["Loss IBP"] * 5
    assert [row["fold"] for row in rows] == [""] * 2 + ["1 of 3"] * 3 + [""] * 2
    assert [row["spec"] for row in rows[2:5]] == [f"loss-ibp:norm=1,beta={value}" for value in (0.01, 0.1, 1)]
    assert (float(rows[0]["error"]), float(rows[0]["noise_0.1"])) == (0.05, 0.1)
    assert rows[2]["noise_0.1"] == ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "figures"), [("002-figure4", 1), ("000-figure3", 2), ("000-figure4-cifar10", 1),
                                               ("004-figure5", 1), ("000-figure2", 1)])
def test_every_kind_of_figure_is_drawn(tmp_path, name, figures):
    definition = scaled(find(name), "quick", seeds=2)
    store = Store(tmp_path / "store")
    for job in wanted(cells(definition, {})):
        made_up(store, job, 0.1 + 0.01 * job.seed)
    report = build(definition, store)
    assert not report.missing
    drawn = write(report, tmp_path / "out")[3:]
    assert len(drawn) == figures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


@pytest.mark.slow
def test_a_report_of_nothing_says_what_is_missing(tmp_path, capsys):
    Store(tmp_path).check_writable()
    assert main(["report", "002-table1-mnist", "--output", str(tmp_path), "--scale", "cpu"]) == 0
    page = (tmp_path / "reports" / "002-table1-mnist.md").read_text()
    assert "Standard BP" in page and "1.21 ± 0.08" in page
    assert "mnist: bp, 3 final runs" in page
    assert str(tmp_path / "reports" / "002-table1-mnist.html") in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["typo", "."])
def test_a_report_from_a_folder_that_is_no_store_is_refused(tmp_path, capsys, folder):
    assert main(["report", "002-table1-mnist", "--output", str(tmp_path / folder)]) == 2
    assert "holds no runs of convnet reproduce; name its store with --output" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (45, "45 s"), (150, "2.5 min"), (3000, "50 min"), (9000, "2.5 h"),
                                               (1e6, "11.6 days")])
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text
