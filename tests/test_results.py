"""Results for notebooks: folders opened again, short and escaped forms, tables, figures of the report, pages."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from drawn_svg import NAMESPACE, parsed
from made_once import made_once
from sweep_records import OPTIMIZERS, RATES, write_sweep
from test_api import SMALL, Tiny, data

import lineament
from lineament import cli
from lineament.claims.verdict import Claim
from lineament.errors import InputError
from lineament.files.folders import IDENTITY, Kind, mark
from lineament.records import FIELDS, NAMING, Quantity, Record
from lineament.report.figures import Figure, run_pictures
from lineament.report.page import headline_rank, render_records
from lineament.runs.folder import RunFolder
from lineament.runs.sweep.results import write_all

SHORT = 2000
CLAIM = Claim("basis_drifts", "sort", "full", 2, "d", None, 0.4, 0.3, 0.5, 0.1, "fraction", "x < 1", "supported")


def untrained() -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[lineament.Results, Path]:
    """What `lineament.measure` returns, and the folder that it leaves, where another target was measured before."""
    out, model = tmp_path_factory.mktemp("measured") / "out", untrained()
    lineament.measure(model, data(), settings=SMALL, out=out, target="minimum")
    return lineament.measure(model, data(), settings=SMALL, out=out, target="maximum"), out


@pytest.fixture
def results(measured: tuple[lineament.Results, Path]) -> lineament.Results:
    return measured[0]


@pytest.fixture
def out(measured: tuple[lineament.Results, Path], tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(measured[1], tmp_path / "out"))


@pytest.fixture(scope="module")
def swept_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(path: Path) -> None:
        write_all(write_sweep(path))

    return made_once(tmp_path_factory, "opened-sweep", make)


@pytest.fixture
def swept(swept_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept_once, tmp_path / "sweep"))


def run(path: Path) -> lineament.Run:
    opened = lineament.open_run(path)
    assert isinstance(opened, lineament.Run)
    return opened


def sweep(path: Path) -> lineament.Sweep:
    opened = lineament.open_run(path)
    assert isinstance(opened, lineament.Sweep)
    return opened


def record(*quantities: Quantity, target: str = "sort", **changes: Any) -> Record:
    made = Record(
        measurement="example",
        target=target,
        seed=0,
        problem="synthetic",
        model="none",
        space="full",
        n_params=2,
        config_hash="0" * 16,
        definitions={},
        quantities=quantities or (Quantity("capture", 0.5, "fraction"),),
    )
    return replace(made, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_measure_leaves_is_opened_with_every_target(results: lineament.Results, out: Path) -> None:
    opened = run(out)
    assert [r for r in opened.records if r.target == "maximum"] == list(results.records)
    assert {record.target for record in opened.records} == {"maximum", "minimum"}
    assert [c for c in opened.claims if c.task == "maximum"] == list(results.claims)
    assert {claim.task for claim in opened.claims} == {"maximum", "minimum"}
    assert opened.headline_rank == results.headline_rank == SMALL["measurement.headline_rank"]
    assert opened.headline_rank == headline_rank(out) == RunFolder(out).headline_rank()


def test_nothing_is_written_by_opening_and_verdicts_are_judged_where_there_are_none(out: Path) -> None:
    claims = run(out).claims
    (out / "claims.json").unlink()
    before = contents(out)
    assert run(out).claims == claims
    assert contents(out) == before


def test_the_command_reports_what_measure_leaves_as_the_library_does(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "claims.json").unlink()
    assert cli.main(["report", str(out)]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    page = (out / "report.html").read_bytes()
    assert (out / "claims.json").exists()
    assert run(out).report().read_bytes() == page
    (tmp_path / "pages").mkdir()
    written = run(out).report(tmp_path / "pages")
    assert written == tmp_path / "pages" / "report.html"
    assert written.read_bytes() == page


def test_results_in_memory_have_the_page_of_their_records(results: lineament.Results, tmp_path: Path) -> None:
    page = results.report(tmp_path / "new" / "page.html").read_text()
    assert page == render_records(results.records, results.claims, results.headline_rank)
    assert "maximum" in page
    with pytest.raises(InputError, match="nothing was measured"):
        lineament.Results((), ()).report(tmp_path)


def test_the_short_form_is_short_and_plain_whatever_names_are_given(results: lineament.Results) -> None:
    assert repr(results).startswith("Results of Tiny\n")
    assert "inconclusive" in repr(results)
    assert "maximum" in repr(results)
    wild = [record(target=f"\x1b[31m{'long ' * 5000}{i}", model="m\n" * 5000) for i in range(50)]
    text = repr(lineament.Results(tuple(wild), (CLAIM,) * 500))
    assert len(text) < SHORT
    assert "\x1b" not in text
    assert text.count("\n") == 4
    assert "500 supported" in text
    assert "and 44 more" in text
    assert len(repr(lineament.Results((), ()))) < SHORT


def test_the_table_of_verdicts_has_the_words_of_the_report_and_escapes_names() -> None:
    bad = replace(CLAIM, task="<img src=x>", verdict="inconclusive", reason="<b>why</b>", low=None, high=None)
    html = lineament.Results((record(model="<script>"),), (CLAIM, bad))._repr_html_()
    assert "✓ supported" in html
    assert "Undecided: &lt;b&gt;why&lt;/b&gt;." in html
    for tag in ("<img", "<script", "<b>"):
        assert tag not in html
    assert "&lt;img src=x&gt;" in html
    assert "[0.3, 0.5]" in html
    assert "Blind" not in html
    assert "<th>Blind</th>" in lineament.Results((record(),), (replace(CLAIM, blind=0.2),))._repr_html_()
    assert "No claim was judged" in lineament.Results((record(),), ())._repr_html_()


def test_the_data_frame_has_the_rows_of_the_export(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(out), "--csv"]) == 0
    exported = pd.read_csv(io.StringIO(capsys.readouterr().out))
    opened = run(out)
    frame = opened.to_pandas()
    assert len(frame) == sum(len(record.quantities) for record in opened.records)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(frame.to_csv(index=False))), exported)
    first = opened.records[0].quantities[0]
    assert frame.loc[0, ["quantity", "unit"]].tolist() == [first.name, first.unit]
    assert {str(frame[name].dtype) for name in ("value", "stderr", "null", "blind", "ceiling")} == {"float64"}


def test_labels_called_as_columns_keep_a_column_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = record(
        Quantity("a", 1.5, "steps", null=0.25, labels={"null": "other", "rank": 3}),
        Quantity("b", None, "steps", reason="why"),
    )
    frame = lineament.Results((labelled,), ()).to_pandas()
    assert list(frame.columns) == [*NAMING, "label.null", "rank", *FIELDS]
    assert frame["label.null"].tolist()[0] == "other"
    assert frame["null"].tolist()[0] == 0.25
    assert str(frame["rank"].dtype) == "Int64"
    assert frame["rank"][0] == 3
    assert frame["rank"].isna().tolist() == [False, True]
    labelled.save(tmp_path / "records")
    assert cli.main(["export", str(tmp_path), "--csv"]) == 0
    head, first, _ = capsys.readouterr().out.splitlines()
    assert head == "measurement,target,seed,quantity,label.null,rank,value,stderr,null,blind,ceiling,unit,reason"
    assert first == "example,sort,0,a,other,3,1.5,,0.25,,,steps,"


def test_pandas_is_named_where_it_is_missing(results: lineament.Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"needs pandas.*pip install 'lineament\[notebook\]'"):
        results.to_pandas()


def test_figures_are_those_of_the_page_with_title_and_legend(results: lineament.Results) -> None:
    assert "spectrum" in results.figures
    picture = run_pictures(results.records, results.headline_rank)["spectrum"]["maximum"]
    figure = results.plot("spectrum")
    assert results.figures["spectrum"] == picture.title == figure.title
    assert figure.picture == picture
    root = parsed(figure._repr_html_())
    said = [(element.text or "").replace("\u00a0", " ") for element in root.iter(f"{NAMESPACE}text")]
    assert any(" ".join(said[:count]) == picture.title for count in range(1, 5))
    assert not any(line.startswith("%") for line in said)
    names = [line.label for panel in picture.panels for line in panel.lines if line.shown]
    assert {said.count(name) for name in names} == {1}


def test_figures_that_are_not_there_are_refused_with_what_is(results: lineament.Results, out: Path) -> None:
    with pytest.raises(InputError, match=r"no figure 'spektrum'.*Did you mean 'spectrum'"):
        results.plot("spektrum")
    with pytest.raises(InputError, match=r"no target 'maximun'.*Did you mean 'maximum'"):
        results.plot("spectrum", "maximun")
    with pytest.raises(InputError, match=r"2 targets have the figure 'spectrum': maximum, minimum\. Name one"):
        run(out).plot("spectrum")
    assert isinstance(run(out).plot("spectrum", target="minimum"), Figure)
    with pytest.raises(InputError, match="nothing of what was measured is drawn"):
        lineament.Results((record(),), ()).plot("capture")


def test_a_sweep_is_opened_cell_by_cell(swept: Path) -> None:
    opened = sweep(swept)
    assert len(repr(opened)) < SHORT
    assert "cells: 6, varied: recovery.optimizer, recovery.lr" in repr(opened)
    assert set(opened.claims) == {cell["name"] for cell in json.loads((swept / "sweep.json").read_text())["cells"]}
    first = "optimizer=sgd,lr=0.001"
    assert (
        opened.cell(first).claims == run(swept / "cells" / first).claims == tuple(run(swept / "cells" / first).claims)
    )
    assert [c.measured for c in opened.cell(first).claims] == [c.measured for c in opened.claims[first]]
    assert opened._repr_html_().count(f"<td>{first}</td>") == len(opened.claims[first])
    with pytest.raises(InputError, match=r"Did you mean 'optimizer=sgd,lr=0.001'"):
        opened.cell("optimizer=sgd,lr=0.0001")
    with pytest.raises(InputError, match="holds no records"):
        opened.cell("optimizer=adamw,lr=0.1")  # it has not started
    assert isinstance(opened.plot("basis_drifts"), Figure)
    with pytest.raises(InputError, match=r"Did you mean 'basis_drifts'"):
        opened.plot("basis_drift")
    page = (swept / "report.html").read_bytes()
    assert opened.report().read_bytes() == page


def test_the_data_frame_of_a_sweep_has_the_rows_of_its_table(swept: Path) -> None:
    frame, table = sweep(swept).to_pandas(), pd.read_parquet(swept / "records.parquet")
    assert list(frame.columns[:4]) == ["cell", "recovery.optimizer", "recovery.lr", "measurement"]
    assert set(frame["recovery.optimizer"]) == set(OPTIMIZERS)
    assert set(frame["recovery.lr"]) <= set(RATES)
    assert frame["null"].equals(table["null_value"])
    for name in ("cell", "quantity", "value", "stderr", "blind", "ceiling", "unit"):
        assert frame[name].equals(table[name].astype(frame[name].dtype)), name
    assert len(sweep(swept).records) == len(frame.groupby(["cell", "measurement", "seed"]))


TORN = {
    "records": lambda folder: next((folder / "records").glob("*.json")),
    "claims": lambda folder: folder / "claims.json",
    "identity": lambda folder: folder / IDENTITY,
}


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 9}'])
@pytest.mark.parametrize("which", TORN)
def test_a_damaged_folder_is_one_sentence(which: str, text: str, out: Path) -> None:
    file = TORN[which](out)
    file.write_text(text)
    before = contents(out)
    with pytest.raises(InputError, match=file.name.replace(".", r"\.")):
        lineament.open_run(out)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["sweep.toml", "sweep.json"])
def test_a_damaged_sweep_is_one_sentence(name: str, swept: Path) -> None:
    (swept / name).write_text("{")
    with pytest.raises(InputError, match=name):
        lineament.open_run(swept)
    (swept / name).unlink()
    with pytest.raises(InputError):
        lineament.open_run(swept)


def test_what_is_no_folder_of_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match="is no folder"):
            lineament.open_run(path)
    with pytest.raises(InputError, match="holds no records"):
        lineament.open_run(str(tmp_path))


@pytest.mark.parametrize("kind", ["analysis", "composition"])
def test_what_was_not_judged_has_no_verdicts_and_is_reported(
    kind: Kind, results: lineament.Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for own in results.records:
        own.save(tmp_path / "records")
    assert run(tmp_path).claims  # of a folder that nothing is known of, what its records decide
    mark(tmp_path, kind)
    opened = run(tmp_path)
    assert opened.claims == ()
    assert "claims: none" in repr(opened)
    assert "spectrum" in opened.figures
    assert cli.main(["report", str(tmp_path)]) == 0
    capsys.readouterr()
    page = (tmp_path / "report.html").read_bytes()
    assert opened.report(tmp_path / "again.html").read_bytes() == page


def test_measure_refuses_a_damaged_record_before_it_measures(out: Path) -> None:
    TORN["records"](out).write_text("{")
    before = contents(out)
    with pytest.raises(InputError, match="records"):
        lineament.measure(untrained(), data(), settings=SMALL, out=out, seeds=2)
    assert contents(out) == before


def test_the_folder_of_a_run_gives_the_figures_of_its_page(finished: Path) -> None:
    opened = run(finished)
    assert isinstance(opened.plot("capture"), Figure)
    page = (finished / "report.html").read_text()
    for name, title in opened.figures.items():
        assert f'-{name}"' in page, title
    assert len(repr(opened)) < SHORT
