"""`lineament search`: methods by ask and tell, plans, probes, resuming, and the tool as a user runs it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import lineament_here
from problems_table import moved, tiny_settings
from read_once import read_smollm2
from safetensors.torch import load_file, save_file
from test_random_search import Bowl

from lineament import cli, theory
from lineament.bases import random_basis
from lineament.commands.search.driver import _spend, choose, probe_cost, run_search
from lineament.commands.search.flags import SearchOptions
from lineament.commands.search.methods import METHODS, Position
from lineament.commands.search.plan import LocalPlan, local_plan, probe, probe_sigmas
from lineament.commands.search.tables import print_impossible, print_plan
from lineament.commands.search.target import Target
from lineament.errors import InputError, NonFiniteError
from lineament.population.population import Population
from lineament.population.region import FreshProduct, Region, SearchSpace, fresh_products, measured_space
from lineament.problems.adapters import load_adapter, save_adapter
from lineament.problems.language_model import LanguageModelProblem
from lineament.problems.problem import Batch, at_positions
from lineament.problems.synthetic import SyntheticProblem
from lineament.settings.presets import resolve
from lineament.settings.settings import Settings
from lineament.streams import Streams
from lineament.vectors.hessian import HessianOperator

SEARCH = ("--budget", "120", "--population", "20", "--probe", "4", "--threads", "1", "--examples", "8")


def bowl_region(basis_rank: int | None = None) -> tuple[Bowl, Region, Population]:
    problem = Bowl(np.linspace(0.1, 2.0, 30), noise=0.0)
    batch = problem.sample("bowl", 4, Streams(2).generator("batch"))
    basis = None
    if basis_rank:
        basis = random_basis(problem.parameters.space, basis_rank, np.random.default_rng(0))
    region = Region("basis" if basis_rank else "full", problem.parameters, basis)
    return problem, region, Population(problem, batch, objective=lambda logits, _: logits[:, 0, 0])


def spend(method: str, region: Region, population: Population, sigma: float, n: int, folder: Path) -> np.ndarray:
    made = METHODS[method](region, Streams(1), sigma, population.base)
    losses, positions = _spend(made, population, n, SearchOptions(population=20), folder, lambda *_: None)
    assert len(positions) == n
    return losses


@pytest.mark.parametrize("method", METHODS)
def test_positions_say_in_numbers_what_was_scored(method: str, tmp_path: Path) -> None:
    problem, region, population = bowl_region(6)
    made = METHODS[method](region, Streams(1), 0.1, population.base)
    losses, positions = _spend(made, population, 90, SearchOptions(population=20), tmp_path, lambda *_: None)
    theta = problem.parameters.read()
    for i in (0, 19, 45, 89):
        with problem.parameters.temporarily(theta + positions[i].delta(region, Streams(1)).to(theta)):
            assert float(problem.loss(population.batch)) == pytest.approx(losses[i], rel=1e-6)
    assert torch.equal(problem.parameters.read(), theta)


@pytest.mark.parametrize("method", ["recentre", "es", "cmaes"])
def test_methods_that_move_beat_one_shot(method: str, tmp_path: Path) -> None:
    """On a bowl seen through 6 directions, 600 evaluations; one shot at its own best sigma."""
    problem, region, population = bowl_region(6)
    space = measured_space(HessianOperator(problem, population.batch), region, Streams(0), 1.0, 0)
    sigma = theory.best_sigma(space.at, 600)
    assert sigma is not None
    once = spend("one_shot", region, population, sigma, 600, tmp_path / "once")
    moving = spend(method, region, population, sigma / 3, 600, tmp_path / method)
    assert moving.min() < once.min()
    expected = theory.second_order_gain(sigma, space.at, 600)
    assert population.base - once.min() == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_search_goes_on_to_the_same_numbers(method: str, tmp_path: Path) -> None:
    _, region, population = bowl_region(6)
    whole = spend(method, region, population, 0.1, 100, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    for file in sorted((tmp_path / "part" / "generations").iterdir())[2:]:
        file.unlink()
    assert np.array_equal(spend(method, region, population, 0.1, 100, tmp_path / "part"), whole)


def test_recentring_moves_only_to_improvements_and_else_draws_nearer() -> None:
    _, region, _ = bowl_region(3)
    method = METHODS["recentre"](region, Streams(0), 1.0, 10.0)
    method.ask(4)
    method.tell(np.array([12.0, np.nan, 11.0, 13.0]))
    assert method.centre == Position()
    assert method.sigma == pytest.approx(0.7)
    method.ask(4)
    method.tell(np.array([12.0, np.nan, 9.0, 9.0]))
    assert method.centre == Position(((6, method.sigma),))  # the third draw of the second four; ties by number
    assert method.base == 9.0


def test_evolution_strategy_moves_against_the_gradient() -> None:
    problem, region, population = bowl_region()
    method = METHODS["es"](region, Streams(0), 0.01, population.base)
    method.tell(population.score(method.ask(400).members).losses)
    step = method.centre.delta(region, Streams(0)).double()
    gradient = problem.exact_gradient(population.batch)
    assert float(step @ gradient) < 0
    cosine = -float(step @ gradient / step.norm() / gradient.norm())
    assert cosine > 0.8  # 200 ranked draws of 30 directions


def test_cmaes_needs_a_basis() -> None:
    _, region, _ = bowl_region()
    with pytest.raises(InputError, match="choose a basis"):
        METHODS["cmaes"](region, Streams(0), 1.0, 0.0)


def test_probe_foretells_the_best_of_many() -> None:
    """Averaged over probes, the foretold gain is that of the log-normal best; its interval mostly holds the truth."""
    _, region, population = bowl_region(6)
    draws = [region.members(Streams(9), range(i, i + 200), 0.2) for i in range(0, 4000, 200)]
    truth = float(np.mean([population.score(members).gains.max() for members in draws]))
    found = [probe(population, region, Streams(5), 0.2, range(i, i + 16), 200) for i in range(0, 640, 16)]
    gains = np.array([p.gain for p in found if p])
    assert gains.mean() == pytest.approx(truth, rel=0.1)
    held = np.mean([p.low <= truth <= p.high for p in found if p])
    assert held > 0.7
    assert all(p.gain < population.base for p in found if p)


def test_local_plan_of_a_bowl_is_the_theory() -> None:
    problem, region, population = bowl_region(6)
    space = measured_space(HessianOperator(problem, population.batch), region, Streams(0), 1.0, 0)
    (product,) = fresh_products(problem, population.batch, [space])
    plan = local_plan(space, product, 100)
    assert plan.best_sigma == theory.best_sigma(space.at, 100)
    assert plan.gain == pytest.approx(theory.linear_gain(plan.best_sigma or 0, space.at.gradient_norm, 100) / 2)
    assert plan.transfer == pytest.approx(1.0)
    assert plan.density == pytest.approx(space.at.gradient_norm**2 / 6)
    assert plan.best_sigma in [pytest.approx(s) for s in probe_sigmas(region, plan)]
    assert len(probe_sigmas(region, None)) == 5


def whole_space(trace_stderr: float, trace: float = 2.0) -> LocalPlan:
    """A plan whose tr H is an estimate."""
    _, region, _ = bowl_region()
    gradient = torch.zeros(region.dimension, dtype=torch.float64)
    gradient[0] = 1.0
    space = SearchSpace(region, theory.Curvature(1.0, trace, 0.0, 1.0), gradient, trace_stderr)
    return local_plan(space, FreshProduct(1.0, 0.0), 100)


@pytest.mark.parametrize("trace", [2.0, -2.0])
def test_a_plan_says_nothing_of_a_curvature_that_is_smaller_than_its_error(
    trace: float, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = whole_space(3.0, trace)
    assert (plan.best_sigma, plan.gain, plan.reference_sigma) == (None, None, None)
    assert "not told from zero" in (plan.why_no_best_sigma or "")
    print_plan(Target(bowl_region()[0], "bowl", Settings(), 0, "here"), [plan], 100)
    printed = " ".join(capsys.readouterr().out.split())
    assert "is not told from 0 in" in printed
    assert "Curvature helps" not in printed
    assert "best by this plan" not in printed
    with pytest.raises(InputError, match="not told from zero"):
        choose(None, [plan.space.region], [plan], None, SearchOptions(probe=0, budget=100), lambda *_: None)  # type: ignore[arg-type]
    # at a step so short that the error of tr H does not matter, the gain is known
    assert plan.gain_at(1e-3) == pytest.approx(theory.linear_gain(1e-3, 1.0, 100), rel=0.01)
    assert plan.gain_at(10.0) is None


def examples(first: int, last: int) -> Batch:
    ids = torch.arange(first, last)[:, None]
    return Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), torch.zeros_like(ids))


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_the_share_on_fresh_data_has_an_error_and_is_left_out_where_it_is_noise(
    common: float, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Bowl(np.linspace(0.5, 2.0, 40))
    problem.noise = torch.randn(64, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem.parameters.write(problem.centre + common)
    space = measured_space(
        HessianOperator(problem, examples(0, 16)), Region("full", problem.parameters, None), Streams(0), 0.1, 100
    )
    (product,) = fresh_products(problem, examples(16, 64), [space])
    # the same by hand: mean over the examples, error over eight parts of six
    inner = torch.stack([problem.exact_gradient(examples(i, i + 1)) for i in range(16, 64)]) @ space.gradient
    assert product.value == pytest.approx(float(inner.mean()))
    parts = torch.stack([inner[start::8].mean() for start in range(8)])
    assert product.stderr == pytest.approx(float(parts.std() / 8**0.5))
    plan = local_plan(space, product, 100)
    assert plan.transfer_stderr == pytest.approx(product.stderr / space.at.gradient_norm**2)
    assert (plan.fresh_share is None) is (common == 0)
    print_plan(Target(problem, "bowl", Settings(), 0, "here"), [plan], 100)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{100 * plan.transfer:.0f}±{plan.transfer_stderr:.0%}" in printed
    assert ("not told from 0 in full" in printed) is (common == 0)
    options = SearchOptions(probe=0, budget=100, sigma=0.01)
    choice, _ = choose(None, [space.region], [plan], None, options, lambda *_: None)  # type: ignore[arg-type]
    assert choice.gain is not None
    assert choice.fresh_gain == (None if common == 0 else pytest.approx(choice.gain * plan.transfer))


def test_a_plan_says_which_curvature_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    """A positive tr H beside "curvature helps" is explained by the curvature along the gradient."""
    _, region, _ = bowl_region()
    gradient = torch.zeros(region.dimension, dtype=torch.float64)
    gradient[0] = 1.0
    space = SearchSpace(region, theory.Curvature(1.0, 2.0, -3.0, 1.0), gradient, 0.1)
    plan = local_plan(space, FreshProduct(1.0, 0.0), 100)
    assert plan.curvature == pytest.approx(2.0 - 3.0 * (theory.expected_max_square(100) - 1))
    print_plan(Target(bowl_region()[0], "bowl", Settings(), 0, "here"), [plan], 100)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{plan.curvature:.3g} ±0.1" in printed
    assert "Curvature helps (it is below 0)" in printed


def test_every_member_failing_is_said_at_once(tmp_path: Path) -> None:
    problem, region, population = bowl_region(6)
    population.objective = lambda logits, _: torch.full_like(logits[:, 0, 0], torch.nan)
    method = METHODS["one_shot"](region, Streams(0), 1.0, population.base)
    with pytest.raises(NonFiniteError, match="first generation"):
        _spend(method, population, 60, SearchOptions(population=20), tmp_path, lambda *_: None)
    target = Target(problem, "bowl", Settings(), 0, "here")
    with pytest.raises(NonFiniteError, match="every probed member"):
        choose(target, [region], [], population, SearchOptions(budget=500), lambda *_: None)


def test_vote_is_the_majority_of_the_kept(tmp_path: Path) -> None:
    problem = moved(SyntheticProblem(tiny_settings("lora"), 0))
    target, region = Target(problem, "copy", Settings(), 0, "here"), Region("full", problem.parameters)
    population = Population(problem, target.batch(8, "selection"))
    options = SearchOptions(budget=60, population=20, keep=5, probe=4)
    choice, probes = choose(target, [region], [], population, options, lambda *_: None)
    assert choice.n == 60 - probe_cost([region], options)
    assert len(probes) == 5
    outcome = run_search(target, region, choice, population, options, tmp_path, lambda *_: None)
    held_out = target.problem.fixed(target.task, "held_out")
    theta, answers = target.problem.parameters.read(), []
    for position in outcome.positions:
        delta = position.delta(region, target.streams).to(theta)
        with target.problem.parameters.temporarily(theta + delta), torch.no_grad():
            answers.append(target.problem.logits(held_out)[..., list(held_out.choices)].argmax(-1).flatten().tolist())
    right = 0
    for ballot, truth in zip(zip(*answers, strict=True), held_out.targets.flatten().tolist(), strict=True):
        most = max(ballot.count(answer) for answer in ballot)
        tied = [answer for answer in ballot if ballot.count(answer) == most]
        chosen = ballot[0] if ballot[0] in tied else min(tied)
        right += held_out.choices[chosen] == truth
    assert outcome.vote_accuracy == pytest.approx(right / held_out.targets.numel())
    assert list(outcome.losses) == sorted(outcome.losses)


@pytest.fixture(scope="module")
def searched(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("search") / "one"
    done = lineament_here("search", str(finished), "--out", str(out), "--rank", "5", *SEARCH)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_search_tells_its_odds_first_and_saves_a_peft_adapter(searched: tuple[Path, str], finished: Path) -> None:
    from peft import PeftConfig

    out, text = searched
    assert text.index("density") < text.index("predicted best") < text.index("achieved")
    assert "curvature" in text.splitlines()[2]
    assert "region: full, all weights that may move; random, a plane of random directions" in " ".join(text.split())
    assert max(map(len, text.splitlines()[:-1])) <= 80  # the last one is the winner's path, which stays whole
    body = json.loads((out / "search.json").read_text())
    assert {plan["region"] for plan in body["plans"]} == {"full", "random", "gradient", "prefix"}
    assert body["outcome"]["gain"] > 0
    assert body["outcome"]["n_evaluations"] == body["choice"]["n"] == 120 - 4 * 21
    assert len(body["members"]) == 8
    assert PeftConfig.from_pretrained(out / "winner").r == 8
    winner = load_file(out / "winner" / "adapter_model.safetensors")
    broken = load_file(finished / "adapters" / "copy-seed0" / "broken" / "adapter_model.safetensors")
    assert winner.keys() == broken.keys()
    assert any(not torch.equal(winner[k], broken[k]) for k in winner)


def test_search_is_reproducible_and_resumes(searched: tuple[Path, str], finished: Path, tmp_path: Path) -> None:
    out, _ = searched
    part = tmp_path / "part"
    shutil.copytree(out, part)
    for name in ("search.json", "generations/00001.json"):
        (part / name).unlink()
    shutil.rmtree(part / "winner")
    again = lineament_here("search", str(finished), "--out", str(part), "--rank", "5", *SEARCH)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert again.stdout == ""  # said before anything is planned
    command = ("search", str(finished), "--out", str(part), *SEARCH, "--resume")
    done = lineament_here(*command, "--rank", "5", "--save-kept")
    assert done.returncode == 0, done.stderr
    kept = {path.name: load_file(path / "adapter_model.safetensors") for path in (part / "kept").iterdir()}
    assert sorted(kept, key=int) == [str(number) for number in range(2, 9)]
    winner = load_file(part / "winner" / "adapter_model.safetensors")
    assert all(not torch.equal(found[key], winner[key]) for found in kept.values() for key in list(winner)[-1:])
    assert (part / "search.json").read_bytes() == (out / "search.json").read_bytes()
    other = lineament_here(*command, "--rank", "4")
    assert other.returncode == 2
    assert "rank: 5 there, 4 now" in other.stderr.replace("\n", " ")


def test_a_gain_beyond_the_loss_is_said_to_be_impossible(capsys: pytest.CaptureFixture[str]) -> None:
    plan = whole_space(0.0)
    assert plan.gain is not None
    print_impossible([plan], plan.gain * 1.01)
    assert capsys.readouterr().out == ""
    print_impossible([plan], plan.gain * 0.99)
    said = " ".join(capsys.readouterr().out.split())
    assert f"predicted in {plan.space.name} is more than the loss at this point, {plan.gain * 0.99:.3g} nats" in said


def test_a_plan_predicts_by_a_probe_what_the_search_then_begins_with(
    searched: tuple[Path, str], finished: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "none it has")
    done = lineament_here("search", str(finished), "--plan", "--out", out, "--rank", "5", *SEARCH)
    assert done.returncode == 0, done.stderr
    assert not Path(out).exists()
    of_search = searched[1]
    assert of_search.startswith(done.stdout[: done.stdout.index("The probe took")])
    assert "search: " in done.stdout
    assert "took 84 forward passes" in done.stdout
    assert "draws 36 members. Nothing was written." in " ".join(done.stdout.split())
    *_, following, last = map(str.strip, done.stderr.splitlines())
    assert last.startswith("done in ")
    assert "--plan" not in following
    request = cli._parsed(shlex.split(following)[1:])
    assert (request.plan, request.out, request.run, request.budget) == (False, Path(out), finished, 120)


def test_a_plan_without_a_probe_spends_nothing_and_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Population, "score", lambda *_: pytest.fail("an evaluation was spent"))
    line = ("search", str(finished), "--plan", "--out", str(tmp_path / "none"), "--rank", "5", "--threads", "1")
    done = lineament_here(*line, "--probe", "0", "--basis", "gradient")
    assert done.returncode == 0, done.stderr
    assert ("Without a probe nothing is predicted" in done.stdout) is ("best by this plan" not in done.stdout)
    assert "predicted best" not in done.stdout
    assert not (tmp_path / "none").exists()


def test_search_without_gradients_says_so(finished: Path, tmp_path: Path) -> None:
    args = ("--no-gradients", "--method", "recentre", "--rank", "5", *SEARCH)
    done = lineament_here("search", str(finished), "--out", str(tmp_path / "forward"), *args)
    assert done.returncode == 0, done.stderr
    assert "No gradients" in done.stdout
    assert json.loads((tmp_path / "forward" / "search.json").read_text())["plans"] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--sigma", "0"], ["--sigma", "above 0"]),
        (["--budget", "0"], ["--budget", "at least 1"]),
        (["--budget", "10", "--population", "64"], ["--budget 10", "population of 64"]),
        (["--budget", "70", "--population", "64"], ["probe", "--budget"]),
        (["--method", "esx"], ["esx", "es"]),
        (["--basis", "gradiant"], ["gradiant", "gradient"]),
        (["--basis", "absent.safetensors"], ["absent.safetensors", "does not exist"]),
        (["--no-gradients", "--basis", "gradient"], ["gradient", "needs gradients"]),
        (["--point", "brokn"], ["brokn", "broken"]),
        (["--seed", "7"], ["seed 7"]),
        (["--task", "sort"], ["sort", "copy"]),
        (["--model", "smollm2-135m", "--adapter", "x"], ["run folder", "--model"]),
    ],
)
def test_bad_input_is_exit_2_with_advice_and_nothing_written(
    change: list[str], words: list[str], finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = lineament_here("search", str(finished), "--out", str(out), "--threads", "1", *change, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_basis_of_another_space_or_model_is_refused_and_named(finished: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    file = next((finished / "bases").glob("prefix-copy-seed0*"))
    with safe_open(file, framework="pt") as stored:
        metadata, columns = stored.metadata(), stored.get_tensor("columns")
    save_file({"columns": columns}, tmp_path / "model.safetensors", {**metadata, "model": "0" * 16})
    save_file({"columns": columns}, tmp_path / "space.safetensors", {**metadata, "layout": "0" * 12})
    cases = {"model": ["another model", "0" * 16, metadata["model"]], "space": ["0" * 12, metadata["layout"]]}
    for name, words in cases.items():
        args = ("--basis", str(tmp_path / f"{name}.safetensors"), "--threads", "1", "--out", str(tmp_path / "o"))
        done = lineament_here("search", str(finished), *args)
        assert done.returncode == 2, done.stdout
        assert all(word in done.stderr.replace("\n", "") for word in words), done.stderr
    good = lineament_here("search", str(finished), "--basis", str(file), "--plan", "--threads", "1")
    assert good.returncode == 0, good.stderr


@pytest.fixture(scope="module")
def smollm2_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of SmolLM2 a little away from where a fresh one starts."""
    problem = LanguageModelProblem(resolve("lm", "quick", []), seed=0)
    noise = torch.from_numpy(Streams(0).generator("adapter").standard_normal(problem.parameters.n_params))
    folder = tmp_path_factory.mktemp("adapter") / "mine"
    save_adapter(problem.parameters, problem.parameters.read() + 0.01 * noise.float(), folder)
    return folder


@pytest.mark.lm
def test_real_model_with_an_adapter_and_forward_passes_only(smollm2_adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    out = tmp_path / "found"
    small = ("--budget", "28", "--population", "8", "--probe", "2", "--examples", "2", "--keep", "2", "--basis", "full")
    model = ("--model", "smollm2-135m", "--adapter", str(smollm2_adapter), "--task", "words", "--no-gradients")
    done = lineament_here("search", *model, *small, "--out", str(out), "--threads", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    body = json.loads((out / "search.json").read_text())
    assert body["outcome"]["n_evaluations"] == 16
    base, _ = read_smollm2()
    adapted = PeftModel.from_pretrained(base, out / "winner")
    problem = LanguageModelProblem(resolve("lm", "quick", []), seed=0)
    batch = problem.fixed("words", "held_out").rows(slice(0, 8))
    problem.parameters.write(load_adapter(problem.parameters, out / "winner"))
    with torch.no_grad():
        theirs = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert torch.allclose(problem.logits(batch), at_positions(theirs, batch.positions), atol=1e-3)


@pytest.mark.lm
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, ["use_dora"]),
        ({"rank_pattern": {"q_proj": 4}}, ["q_proj have rank 8", "says 4"]),
        ({"target_modules": ["c_attn"]}, ["c_attn", "does not fit LlamaForCausalLM"]),
        ({"r": 4}, ["have rank 8", "says 4"]),
    ],
)
def test_adapters_that_cannot_be_searched_are_refused(
    change: dict[str, object], words: list[str], smollm2_adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(smollm2_adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    done = lineament_here("search", "--model", "smollm2-135m", "--adapter", str(folder), "--task", "words", "--plan")
    assert done.returncode == 2, done.stdout
    assert all(word in done.stderr.replace("\n", " ") for word in words), done.stderr
    assert "Traceback" not in done.stderr
