"""`lineament compose` on a tiny model, with real PEFT folders."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import lineament_here
from composed import TARGETS
from drawn_svg import hints, marks, parsed
from families import random_model, write_family
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from lineament import Record, adapter_cosine, combine_adapters, read_adapter
from lineament.commands.compose.command import adapter_names
from lineament.commands.compose.flags import Compose
from lineament.commands.compose.inputs import base_of, halved
from lineament.errors import InputError
from lineament.records import Quantity
from lineament.report.legend import legend
from lineament.report.page import write_report
from lineament.report.sections.composition.pictures import grid_picture, line_picture
from lineament.report.sections.composition.words import rows as shown_rows
from lineament.report.sections.composition.words import sentences
from lineament.report.series import Surface, data_table, undefined_notes
from lineament.report.svg.standalone import standalone
from lineament.streams import Streams

SHORT = ("--scales", "0.5,1", "--draws", "2", "--examples", "12", "--order-examples", "2", "--threads", "1", "--quiet")


def save(folder: Path, family: str, config: dict[str, Any], seed: int) -> Path:
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        get_peft_model(random_model(family), LoraConfig(**config, init_lora_weights=False)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters of it, and data for each: statements and completions."""
    made = tmp_path_factory.mktemp("compose")
    write_family("llama", made / "base")
    for number, name in enumerate(("sql", "chat")):
        config = {"r": 2 + number, "lora_alpha": 1, "target_modules": TARGETS["llama"][number]}
        save(made / name, "llama", config, number)
    rows: list[dict[str, object]] = [{"statement": f"{i} apple stone", "label": i % 2 == 0} for i in range(30)]
    write(made / "a.jsonl", rows)
    write(made / "b.jsonl", [{"prompt": f"{i} stone", "completion": " apple" * (1 + i % 3)} for i in range(20)])
    return made


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(folder: Path, out: Path, *more: str) -> list[str]:
    data = ("--data", str(folder / "a.jsonl"), "--data", str(folder / "b.jsonl"))
    names = (str(folder / "sql"), str(folder / "chat"))
    return ["compose", *names, "--model", str(folder / "base"), *data, "--out", str(out), *SHORT, *more]


@pytest.fixture(scope="module")
def composed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a composition wrote, and what it printed."""
    out = tmp_path_factory.mktemp("out") / "both"
    done = lineament_here(*command(folder, out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_everything_is_written_and_said(composed: tuple[Path, str], folder: Path) -> None:
    out, said = composed
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "lineament.json", "records", "report.html"]
    record = Record.load(next((out / "records").glob("*.json")))
    assert record.target == "sql and chat"
    cosine = adapter_cosine(read_adapter(folder / "sql"), read_adapter(folder / "chat"))
    assert record.value("cosine") == pytest.approx(cosine)
    assert record.value("examples", data="first") == 12
    words = " ".join(said.split())
    for sentence in sentences(record):
        assert " ".join(sentence.split()) in words
    assert f"report: {out / 'report.html'}" in said
    assert max(map(len, said.splitlines()[:-3])) <= 80


def test_the_merged_adapter_is_the_best_sum_for_peft(composed: tuple[Path, str], folder: Path) -> None:
    out, _ = composed
    record = Record.load(next((out / "records").glob("*.json")))
    scales = [record.value("best_scale", adapter=side) or 0.0 for side in ("first", "second")]
    expected = combine_adapters([read_adapter(folder / name) for name in ("sql", "chat")], scales)
    assert torch.equal(read_adapter(out / "adapter").theta(), expected.theta())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert isinstance(PeftModel.from_pretrained(random_model("llama"), out / "adapter"), PeftModel)


def test_equal_commands_write_equal_bytes_and_replace_their_own(
    composed: tuple[Path, str], folder: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(composed[0], tmp_path / "again"))
    before = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert lineament_here(*command(folder, out)).returncode == 0
    after = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert after == before
    done = lineament_here(*command(folder, out, "--at", "1,-0.5", "--no-order", "--seed", "3"))
    assert done.returncode == 0, done.stderr
    assert "1 A + -0.5 B:" in done.stdout
    assert "not measured, --no-order was given" in done.stdout
    assert len(list((out / "records").glob("*.json"))) == 1
    expected = combine_adapters([read_adapter(folder / name) for name in ("sql", "chat")], [1.0, -0.5])
    assert torch.equal(read_adapter(out / "adapter").theta(), expected.theta())


def test_predictions_are_made_before_any_sum_and_nothing_else(
    composed: tuple[Path, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(*given: object, **named: object) -> None:
        raise AssertionError("a loss of a sum was computed")

    monkeypatch.setattr("lineament.merging.interference.losses_at", tried)
    done = lineament_here(*command(folder, tmp_path / "out", "--predict-only"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lineament.json", "records", "report.html"]
    (record,) = (Record.load(path) for path in (tmp_path / "out" / "records").glob("*.json"))
    whole = Record.load(next((composed[0] / "records").glob("*.json")))
    assert set(map(str, record.quantities)) <= set(map(str, whole.quantities))
    said = " ".join(done.stdout.split())
    for sentence in sentences(record):
        assert " ".join(sentence.split()) in said
    assert "No sum was tried" in said
    assert "foretold half-way" in said
    assert "loss of base" not in said
    assert "merged adapter" not in said
    assert "No sum was tried" in (tmp_path / "out" / "report.html").read_text()
    again = Path(shutil.copytree(composed[0], tmp_path / "again"))
    before = (again / "report.html").read_bytes()
    done = lineament_here(*command(folder, again, "--predict-only"))
    assert done.returncode == 2
    assert "choose another --out" in done.stderr
    assert (again / "report.html").read_bytes() == before


def test_every_prediction_stands_beside_its_null(composed: tuple[Path, str]) -> None:
    record = Record.load(next((composed[0] / "records").glob("*.json")))
    said, shown = composed[1], shown_rows(record)
    names = [what for what, _, _ in shown]
    for what in ("foretold at own", "foretold at the base", "foretold half-way"):
        place = names.index(what)
        assert names[place + 1 : place + 4] == ["  null of it", "  off by", "  null of that"]
        assert all("[" in cell for row in shown[place : place + 4] for cell in row[1:])
        assert all(re.search(r"\] \d/2$", cell) for at in (1, 3) for cell in shown[place + at][1:])
    for what in ("added by the other", "interference at 1, 1"):
        assert names[names.index(what) + 1] == "  null of it"
    assert said.count("null of it") == 5
    assert " ".join(said.split()).count("With random singular vectors:") == 4
    page = (composed[0] / "report.html").read_text()
    assert "null of that" in page
    assert any("the same, foretold half-way" in text for text in hints(parsed(standalone(line_picture([record])))))


def test_a_record_of_an_earlier_version_is_named(composed: tuple[Path, str]) -> None:
    record = Record.load(next((composed[0] / "records").glob("*.json")))
    older = replace(record, quantities=tuple(q for q in record.quantities if q.name != "cost"))
    with pytest.raises(InputError, match=r"has no cost: an earlier version wrote it. Compose again."):
        list(sentences(older))


def refused(folder: Path, tmp_path: Path, *arguments: str) -> str:
    """What is said of bad input, after which nothing is written."""
    done = lineament_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    return done.stderr


def test_bad_flags_are_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more, said in (
        (("--scales", "a"), "--scales 'a': give numbers"),
        (("--scales", "nan"), "give finite"),
        (("--scales", "0"), "nothing above 0"),
        (("--scales", "101"), "from 0 to 100"),
        (("--scales", "-1"), "from 0 to 100"),
        (("--scales", ",".join(map(str, range(1, 23)))), "1 to 20 numbers"),
        (("--at", "1"), "--at '1': give two numbers"),
        (("--at", "1,x"), "give two numbers"),
        (("--at", "1,200"), "at most 100"),
        (("--data", "c.jsonl"), "--data was given 3 times"),
        (("--device", "tpu"), "device"),
        (("--predict-only", "--at", "1,1"), "--predict-only writes none"),
        (("--examples", "4"), "4 examples; at least 8"),
    ):
        assert said in refused(folder, tmp_path, *command(folder, out, *more)), more


def test_adapters_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = command(folder, out)
    assert "does not exist" in refused(folder, tmp_path, "compose", "nowhere", *whole[2:])
    other = save(tmp_path / "other", "gpt2", {"r": 2, "target_modules": ["c_attn"]}, 0)
    assert "which this model lacks" in refused(folder, tmp_path, "compose", str(other), *whole[2:])
    named = Path(shutil.copytree(folder / "sql", tmp_path / "named"))
    for path, base in ((named, "org/one"), (tmp_path / "second", "org/two")):
        if not path.exists():
            shutil.copytree(folder / "chat", path)
        config = path / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": base}))
    said = refused(folder, tmp_path, "compose", str(named), str(tmp_path / "second"), *whole[3:])
    assert "says that its base model is org/one" in said


def test_the_base_is_the_one_that_the_adapters_name(folder: Path, tmp_path: Path) -> None:
    """And where another was given it is said: the merged adapter names a base on which nothing was measured."""
    named = []
    for name in ("sql", "chat"):
        named.append(Path(shutil.copytree(folder / name, tmp_path / name)))
        config = named[-1] / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "acme/other-base"}))
    options = ["--at", "1,1", "--no-order"]
    whole = [*command(folder, tmp_path / "first", *options)]
    whole[1:3] = map(str, named)
    done = lineament_here(*whole)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "note: the adapters name the base model acme/other-base; everything here is measured on --model" in words
    silent = command(folder, tmp_path / "other", *options)
    place = silent.index("--model")
    said = refused(folder, tmp_path, *silent[:place], *silent[place + 2 :])
    assert "The adapters do not name their base model; name it with --model." in said
    assert base_of(Compose(first=named[0], second=named[1], data=()), [read_adapter(one) for one in named]) == (
        "acme/other-base",
        (),
    )


def test_bad_data_is_refused(folder: Path, tmp_path: Path) -> None:
    whole = command(folder, tmp_path / "out")
    a = str(folder / "a.jsonl")
    for rows, said in (
        ([], "holds no rows"),
        ([{"statement": f"{i}", "label": True} for i in range(5)], "5 examples; at least 8"),
        ([{"statement": f"{i}", "label": True, "group": "g"} for i in range(12)], "nearly all of its rows"),
        (
            [{"prompt": f"{i}", "completion": " apple " * (200 * (i == 3) or 1)} for i in range(12)],
            "line 4: an example",
        ),
    ):
        file = str(write(tmp_path / "rows.jsonl", rows))
        given = [file if part == a else part for part in whole]
        assert said in refused(folder, tmp_path, *given)
    missing = [str(tmp_path / "none.jsonl") if part == a else part for part in whole]
    assert "none.jsonl" in refused(folder, tmp_path, *missing)


def test_folders_of_somebody_else_stay(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    done = lineament_here(*command(folder, mine))
    assert done.returncode == 2
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    done = lineament_here(*command(folder, folder, "--quiet"))
    assert done.returncode == 2
    own = Path(shutil.copytree(folder / "sql", tmp_path / "own" / "adapter"))
    whole = command(folder, tmp_path / "own")
    done = lineament_here("compose", str(own), *whole[2:])
    assert done.returncode == 2
    assert "would write the merged adapter" in done.stderr


def test_groups_are_never_divided() -> None:
    groups = [f"g{i % 7}" for i in range(50)]
    inside = halved(groups, Streams(0).generator("halves"))
    sides = {group: {bool(side) for g, side in zip(groups, inside, strict=True) if g == group} for group in groups}
    assert all(len(side) == 1 for side in sides.values())
    assert abs(int(inside.sum()) - 25) <= 8
    alone = halved([str(i) for i in range(11)], Streams(0).generator("halves"))
    assert int(alone.sum()) in (5, 6)
    assert not torch.equal(alone, halved([str(i) for i in range(11)], Streams(1).generator("halves")))


def test_names_that_are_alike_are_told_apart() -> None:
    assert adapter_names(Path("x/sql"), Path("y/chat")) == ("sql", "chat")
    assert adapter_names(Path("x/adapter"), Path("y/adapter")) == ("x/adapter", "y/adapter")
    assert adapter_names(Path("x/a"), Path("x/a")) == ("x/a (A)", "x/a (B)")


def test_the_report_draws_what_was_measured(composed: tuple[Path, str]) -> None:
    record = Record.load(next((composed[0] / "records").glob("*.json")))
    picture = grid_picture([record])
    assert marks(picture) >= 2 * 9
    for panel, side in zip(picture.panels, ("first", "second"), strict=True):
        assert isinstance(panel, Surface)
        assert list(panel.x) == [0, 0.5, 1]
        for t in panel.y:
            for s in panel.x:
                losses = [record.value("loss", data=side, s=a, t=b) for a, b in ((s, t), (s, 0), (0, t), (0, 0))]
                assert panel.measured[s, t].mean == losses[0]
                met = record.value("interference", data=side, kind="both", s=s, t=t) if s and t else 0.0
                expected = losses[1] + losses[2] - losses[3] + met  # type: ignore[operator]
                assert panel.predicted[s, t].mean == pytest.approx(expected)
        best = [record.value("best_scale", adapter=one) for one in ("first", "second")]
        assert list(panel.mark[:2]) == best
    assert undefined_notes(picture) == []
    assert "over examples (bootstrap)" in " ".join(data_table(picture).columns)
    assert [item.label for _, items in legend(picture).shown for item in items] == [
        "measured",
        "predicted",
        "best pair of scales",
    ]
    page = (composed[0] / "report.html").read_text()
    assert "seeds</dt>" not in page
    assert "Verdicts" not in page
    assert "on the data of each" in page


def test_losses_that_are_not_finite_are_named_and_not_drawn(composed: tuple[Path, str], tmp_path: Path) -> None:
    record = Record.load(next((composed[0] / "records").glob("*.json")))

    def lost(q: Quantity) -> Quantity:
        gone = q.matches("loss", data="first", s=1.0, t=1.0) or q.matches("interference_at_one", data="first")
        return replace(q, value=None, reason="the loss is not finite there") if gone else q

    broken = replace(record, quantities=tuple(map(lost, record.quantities)))
    panel = grid_picture([broken]).panels[0]
    assert isinstance(panel, Surface)
    assert panel.measured[1.0, 1.0].mean is None
    assert "nan" not in standalone(grid_picture([broken]))
    assert any(
        "scale s of A 1): the loss is not finite there" in note for note in undefined_notes(grid_picture([broken]))
    )
    assert any("an unknown amount (the loss is not finite there)" in sentence for sentence in sentences(broken))
    broken.save(tmp_path / "records")
    assert write_report(tmp_path).exists()


def test_a_record_of_an_earlier_version_still_makes_a_report(composed: tuple[Path, str], tmp_path: Path) -> None:
    record = Record.load(next((composed[0] / "records").glob("*.json")))
    later = ("kappa_chance", "null_draw", "null_size", "null_rank", "prediction_error")
    before = replace(record, quantities=tuple(one for one in record.quantities if one.name not in later))
    before.save(tmp_path / "records")
    assert "did not test whether they differ" in write_report(tmp_path).read_text()
    assert not any("With random singular vectors" in sentence for sentence in sentences(before))


def test_an_interrupted_command_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lineament.commands.compose.command.interference", interrupted)
    done = lineament_here(*command(folder, tmp_path / "out"))
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_names_are_no_markup(folder: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(folder / "sql", tmp_path / "[red]sql"))
    file = write(tmp_path / "[bold]a.jsonl", [{"text": f"{i} apple stone apple"} for i in range(9)])
    whole = command(folder, tmp_path / "out", "--no-order")
    given = [str(file) if part == str(folder / "a.jsonl") else part for part in whole]
    done = lineament_here("compose", str(odd), *given[2:])
    assert done.returncode == 0, done.stderr
    assert "A = [red]sql, B = chat" in done.stdout
    assert "A's data: [bold]a.jsonl" in done.stdout
    assert "note: " in done.stdout  # how running text was cut
    assert "[red]sql and chat" in (tmp_path / "out" / "report.html").read_text()


def test_the_report_is_made_again_from_the_records(composed: tuple[Path, str], tmp_path: Path) -> None:
    out = Path(shutil.copytree(composed[0], tmp_path / "again"))
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert lineament_here("report", str(out)).returncode == 0
    assert (out / "report.html").read_bytes() == before


def changed_factors(folder: Path, out: Path, factor: str, change: Callable[[Tensor], Tensor]) -> Path:
    """A copy of an adapter with other factors A or B."""
    shutil.copytree(folder, out)
    stored = load_file(out / "adapter_model.safetensors")
    save_file(
        {n: change(t) if f"lora_{factor}" in n else t for n, t in stored.items()}, out / "adapter_model.safetensors"
    )
    return out


def test_adapters_with_numbers_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = changed_factors(folder / "sql", tmp_path / "broken", "B", lambda b: b / 0)
    said = refused(folder, tmp_path, "compose", str(broken), *command(folder, tmp_path / "out")[2:])
    assert f"{broken}: model.layers.0" in said
    assert "NaN or infinite" in said


@pytest.mark.parametrize("factor", [0.0, 1e30])
def test_adapters_that_do_nothing_or_break_the_model(factor: float, folder: Path, tmp_path: Path) -> None:
    """Figures that are not defined have a reason, and nothing ends in a traceback."""
    odd = changed_factors(folder / "sql", tmp_path / "odd", "B", lambda b: b * factor)
    done = lineament_here("compose", str(odd), *command(folder, tmp_path / "out")[2:])
    assert done.returncode == 0, done.stderr
    record = Record.load(next((tmp_path / "out" / "records").glob("*.json")))
    assert all(q.value is not None or q.reason for q in record.quantities)
    if factor == 0:
        assert record.value("interference", data="first", kind="measured", s=1.0, t=1.0) == 0
        assert next(record.select("keeps_up_to", data="first")).value is None
