"""`lineament adapters`: figures against dense dW, folders that real PEFT loads, and requests that are refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import lineament_here
from made_adapters import dense_changes, loaded, made, of_matrices

from lineament import cli, read_adapter, save_stored_adapter
from lineament.commands.adapters import command
from lineament.commands.adapters.selection import names_of, rank_or_share, sum_in_words, weights_of
from lineament.commands.adapters.tables import percent
from lineament.errors import InputError

Dense = dict[str, np.ndarray]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, Dense, Dense]:
    first, one = made(tmp_path / "a", seed=1)
    second, other = made(tmp_path / "b", seed=2, r=3, use_rslora=True, target_modules=["q"])
    return first, second, one, other


def body(*arguments: str) -> dict[str, Any]:
    done = lineament_here("adapters", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_figures_of_one_adapter_are_those_of_dense_dw(two: tuple[Path, Path, Dense, Dense]) -> None:
    folder, _, dense, _ = two
    found = body(str(folder), "--share", "0.8")["adapters"][0]
    energies = {name: np.square(np.linalg.svd(dw, compute_uv=False)) for name, dw in dense.items()}
    assert found["norm"] == pytest.approx(np.sqrt(sum(e.sum() for e in energies.values())), rel=1e-5)
    used = [int((np.cumsum(e) / e.sum() < 0.8).sum()) + 1 for e in energies.values()]
    assert found["rank_used"] == pytest.approx(np.mean(used))
    assert [one["rank_used"] for one in found["by_module"]] == used
    assert [one["module"] for one in found["by_module"]] == list(dense)
    for one in found["by_module"]:
        assert one["shape"] == list(dense[one["module"]].shape)
        assert np.square(one["singular_values"]).sum() == pytest.approx(energies[one["module"]].sum(), rel=1e-5)
    tails = sum(e[2:].sum() for e in energies.values()) / sum(e.sum() for e in energies.values())
    assert found["truncation_error"] == {
        "1": pytest.approx(found["truncation_error"]["1"]),
        "2": pytest.approx(tails**0.5),
    }
    assert 0 < found["rank_used_blind"] <= found["rank_paid"] == 4


def test_the_figures_of_two_adapters_are_those_of_dense_dw(two: tuple[Path, Path, Dense, Dense]) -> None:
    first, second, one, other = two
    found = body(str(first), str(second))
    (pair,) = found["pairs"]
    inner = sum(float(np.sum(one[name] * dw)) for name, dw in other.items())
    norms = [np.sqrt(sum(float(np.sum(dw**2)) for dw in dense.values())) for dense in (one, other)]
    assert pair["cosine"] == pytest.approx(inner / norms[0] / norms[1], abs=1e-5)
    assert (pair["modules_of_first_alone"], pair["modules_of_second_alone"]) == (2, 0)
    assert [module["module"] for module in pair["by_module"]] == list(other)
    assert pair["left"]["value"] == pytest.approx(np.mean([m["left"]["value"] for m in pair["by_module"]]))
    assert [module["module"] for module in found["shared"]] == list(other)
    assert set(found["shared"][0]["left"]["energies"]) == {"a", "b"}


def test_a_sum_is_written_exact_and_real_peft_gives_the_sum_of_the_changes(
    two: tuple[Path, Path, Dense, Dense], tmp_path: Path
) -> None:
    first, second, one, other = two
    out = tmp_path / "sum"
    done = lineament_here("adapters", str(first), str(second), "--combine", "b=-0.5,a=2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert f"-0.5 b + 2 a: ranks 4 to 7, exact: {out}" in done.stdout
    found = dense_changes(loaded(out))
    assert set(found) == set(one)
    for name, dw in found.items():
        assert np.allclose(dw, 2 * one[name] - 0.5 * other.get(name, np.zeros(1)), atol=1e-5)


@pytest.mark.parametrize("to", ["2", "90%", "0.9"])
def test_a_cut_adapter_is_written_off_by_the_stated_error(
    to: str, two: tuple[Path, Path, Dense, Dense], tmp_path: Path
) -> None:
    folder, _, dense, _ = two
    stated = body(str(folder), "--truncate", to, "--out", str(tmp_path / "cut"))["made"]
    found = dense_changes(loaded(tmp_path / "cut"))
    off = sum(float(np.sum((found[name] - dw) ** 2)) for name, dw in dense.items())
    whole = sum(float(np.sum(dw**2)) for dw in dense.values())
    assert stated["relative_error"] == pytest.approx(np.sqrt(off / whole), abs=1e-5)
    assert stated["relative_error"] > 0.01
    assert stated["weights"] == {"a": 1.0}
    ranks = [len(own.a) for own in read_adapter(tmp_path / "cut").factors.values()]
    assert (stated["least_rank"], stated["largest_rank"]) == (min(ranks), max(ranks))
    assert ranks == [2] * 4 if to == "2" else stated["relative_error"] <= np.sqrt(0.1)


def test_a_cut_sum_and_one_that_is_only_told(two: tuple[Path, Path, Dense, Dense], tmp_path: Path) -> None:
    first, second, one, other = two
    told = body(str(first), str(second), "--combine", "a=1,b=1", "--truncate", "3")["made"]
    dense = {name: dw + other.get(name, 0) for name, dw in one.items()}
    tail = sum(np.square(np.linalg.svd(dw, compute_uv=False))[3:].sum() for dw in dense.values())
    whole = sum(float(np.sum(dw**2)) for dw in dense.values())
    assert told["relative_error"] == pytest.approx(np.sqrt(tail / whole), abs=1e-5)
    assert told["folder"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_of_ours_is_written_over_and_others_are_not(
    two: tuple[Path, Path, Dense, Dense], tmp_path: Path
) -> None:
    first, second, *_ = two
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    for rank in ("1", "2"):
        assert lineament_here("adapters", str(first), "--truncate", rank, "--out", str(out)).returncode == 0
    assert {len(own.a) for own in read_adapter(out).factors.values()} == {2}
    foreign.mkdir()
    (foreign / "adapter_model.safetensors").write_bytes(b"mine")
    for bad in (foreign, second, first, foreign / "adapter_model.safetensors"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        done = lineament_here("adapters", str(first), "--truncate", "1", "--out", str(bad))
        assert done.returncode == 2
        assert done.stdout == ""
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    done = lineament_here("adapters", str(out), "--truncate", "1", "--out", str(out))
    assert (done.returncode, "one of the adapters that are read" in done.stderr) == (2, True)


def wide(n_layers: int) -> Dense:
    generator = np.random.default_rng(0)
    kinds = ("self_attn.q_proj", "mlp.up_proj")
    return {
        f"model.layers.{i}.{kind}": generator.standard_normal((20, 6)) @ generator.standard_normal((6, 30))
        for i in range(n_layers)
        for kind in kinds
    }


def test_many_modules_are_shown_by_kind_and_all_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("a", "b", "c", "d"):
        save_stored_adapter(of_matrices(wide(8), 6), tmp_path / name)
    one = lineament_here("adapters", str(tmp_path / "a")).stdout
    assert "self_attn.q_proj (8)" in one
    assert one.startswith("a: rank 6 paid for, ")
    assert 4 < one.count("_proj") < 8
    every = lineament_here("adapters", str(tmp_path / "a"), "--all").stdout
    assert every.count("_proj") == 16
    assert "7.mlp.up_proj" in every
    pair = lineament_here("adapters", str(tmp_path / "a"), str(tmp_path / "b")).stdout
    assert "+1.000" in pair
    four = lineament_here("adapters", *(str(tmp_path / name) for name in "abcd")).stdout
    assert four.count("+1.000") == 6
    assert "Shared by all 4" in four
    assert "_proj" not in four
    for text in (one, every, pair, four):
        assert max(map(len, text.splitlines())) <= 80


def test_an_adapter_that_changes_nothing_says_so(tmp_path: Path) -> None:
    fresh, _ = made(tmp_path / "fresh", init_lora_weights=True)
    moved, _ = made(tmp_path / "moved")
    assert "dW is zero in all 4 modules" in lineament_here("adapters", str(fresh)).stdout
    found = body(str(fresh), str(moved), "--combine", "fresh=1,moved=1", "--truncate", "50%")
    assert found["pairs"][0]["cosine"] is None
    assert found["adapters"][0]["rank_used"] is None
    assert found["shared"] == []
    assert lineament_here("adapters", str(fresh), str(moved)).returncode == 0


def test_the_same_start_of_a_is_told(tmp_path: Path) -> None:
    first, second, third = (made(tmp_path / name, seed=seed)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    same = " ".join(lineament_here("adapters", str(first), str(second)).stdout.split())
    assert "A began at the same random numbers (cosine of A as stored 1)" in same
    pairs = body(str(first), str(second), str(third))["pairs"]
    assert pairs[0]["same_start"] is True
    assert pairs[0]["cosine_of_a"] == pytest.approx(1)


def test_what_to_type_next_can_be_typed(two: tuple[Path, Path, Dense, Dense], tmp_path: Path) -> None:
    first, second, *_ = two
    said = {
        "one": lineament_here("adapters", str(made(tmp_path / "more than is used", r=9)[0])).stderr,
        "two": lineament_here("adapters", str(first), str(second)).stderr,
        "made": lineament_here("adapters", str(first), "--truncate", "1", "--out", str(tmp_path / "cut one")).stderr,
    }
    for text in said.values():
        lines = [line for line in text.partition("next:\n")[2].splitlines() if line.startswith("  ")]
        assert len(lines) == 1
        cli._parsed(shlex.split(lines[0])[1:])
    assert f"compose {first} {second} --model MODEL" in said["two"]
    assert "cut one'" in said["made"]
    assert "more than is used' --truncate " in said["one"]
    assert "next" not in lineament_here("adapters", str(first)).stderr  # all of its rank is used
    for quiet in ("--quiet", "--json"):
        assert "next" not in lineament_here("adapters", str(first), str(second), quiet).stderr


def test_what_takes_long_shows_progress(two: tuple[Path, Path, Dense, Dense], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = two
    monkeypatch.setattr(command, "LONG", 0)
    text = lineament_here("adapters", str(first), str(second)).stderr
    assert "singular values of a" in text
    assert "comparing modules" in text


def test_different_bases_are_told(two: tuple[Path, Path, Dense, Dense]) -> None:
    first, second, *_ = two
    for folder, base in ((first, "base-one"), (second, "[bold]base-two")):
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    assert "base-two" in body(str(first), str(second))["notes"][0]
    assert "b: [bold]base-two" in " ".join(lineament_here("adapters", str(first), str(second)).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "folder"),
        (["{a}", "--out", "x"], "add --combine or --truncate"),
        (["{a}", "{b}", "--truncate", "2"], "say which sum to cut with --combine"),
        (["{a}", "{a}"], "given twice"),
        (["{a}", "{a}/../a"], "given twice"),
        (["{a}", "--truncate", "0"], "a rank of at least 1"),
        (["{a}", "--truncate", "101%"], "a rank of at least 1"),
        (["{a}", "--truncate", "1.5"], "a rank of at least 1"),
        (["{a}", "--truncate", "nan"], "a rank of at least 1"),
        (["{a}", "--truncate", "²"], "a rank of at least 1"),
        (["{a}", "--truncate", ""], "a rank of at least 1"),
        (["{a}", "{b}", "--combine", "a"], "NAME=WEIGHT"),
        (["{a}", "{b}", "--combine", ""], "NAME=WEIGHT"),
        (["{a}", "{b}", "--combine", "a=1,,b=1"], "NAME=WEIGHT"),
        (["{a}", "{b}", "--combine", "a=1,c=1"], "no adapter 'c'"),
        (["{a}", "{b}", "--combine", "a=1,a=2"], "names a twice"),
        (["{a}", "{b}", "--combine", "a=x"], "must be a finite number"),
        (["{a}", "{b}", "--combine", "a=inf"], "must be a finite number"),
        (["{a}", "{b}", "--combine", "a=0,b=0"], "no weight but 0"),
        (["{a}", "nowhere"], "does not exist"),
        (["{a}", "--share", "0"], "above 0"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    arguments: list[str], words: str, two: tuple[Path, Path, Dense, Dense], tmp_path: Path
) -> None:
    given = [one.format(a=two[0], b=two[1]) for one in arguments]
    out = [] if "--out" in given or not given else ["--out", str(tmp_path / "out")]
    done = lineament_here("adapters", *given, *(out if "--combine" in given or "--truncate" in given else []))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_adapters_of_other_shapes_and_paths_are_refused(tmp_path: Path) -> None:
    matrices = {"a": {"x.q": np.ones((4, 5))}, "b": {"x.q": np.ones((4, 6))}, "c": {"y.q": np.ones((4, 5))}}
    for name, own in matrices.items():
        save_stored_adapter(of_matrices(own), tmp_path / name)
    for other, words in (("b", "base models differ"), ("c", "modules by other paths")):
        done = lineament_here("adapters", str(tmp_path / "a"), str(tmp_path / other))
        assert (done.returncode, words in done.stderr) == (2, True)


def test_names_are_the_shortest_ends_that_differ(tmp_path: Path) -> None:
    assert names_of([Path("/x/one"), Path("/y/two")]) == ["one", "two"]
    assert names_of([Path("/x/a/star"), Path("/x/b/star"), Path("/x/b/end")]) == ["a/star", "b/star", "end"]
    assert names_of([Path("/a/star"), Path("/star")]) == ["a/star", "/star"]
    assert weights_of("a/star=1, b/star=-2e-1", ["a/star", "b/star"]) == {"a/star": 1.0, "b/star": -0.2}
    assert weights_of("x=y=1", ["x=y"]) == {"x=y": 1.0}


def test_sums_and_shares_in_words() -> None:
    assert sum_in_words({"a": 1.0}) == "a"
    assert sum_in_words({"a": -1.0, "b": 0.5, "c": -2.0, "d": 1.0}) == "-a + 0.5 b - 2 c + d"
    assert [percent(share) for share in (0.0, 0.0712, 0.5, 0.994, 0.9961, 1.0)] == [
        "0",
        "7.1",
        "50",
        "99",
        "99.6",
        "100",
    ]


def test_ranks_are_whole_numbers_and_shares_are_not() -> None:
    assert [rank_or_share(text) for text in ("1", "16", "1.0", "0.5", "100%", "12.5%")] == [1, 16, 1.0, 0.5, 1.0, 0.125]
    assert [type(rank_or_share(text)) for text in ("1", "1.0", "1%")] == [int, float, float]
    with pytest.raises(InputError):
        rank_or_share("9" * 5000)


def test_threads_are_set(two: tuple[Path, Path, Dense, Dense], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    lineament_here("adapters", str(two[0]), "--threads", "3")
    assert 3 in given
