"""`lineament steer` on the real SmolLM2-135M: data to vector, its effect, text, and files of other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from test_language_model import tiny_gpt2

from lineament.cli import main
from lineament.commands.steer.effect_words import majority_text
from lineament.commands.steer.flags import ModelFlags, parse_layers
from lineament.commands.steer.make import _narrow_texts
from lineament.commands.steer.model import SteeredModel
from lineament.errors import InputError
from lineament.problems.problem import Batch
from lineament.problems.statements import words
from lineament.steering.contrast import make_contrast
from lineament.steering.effects import Answers
from lineament.steering.formats import read_vector
from lineament.steering.vector import SteeringVector, VectorTags, load_vector, save_vector

pytestmark = pytest.mark.lm

FEELINGS = (
    ("the weather", "a holiday", "the soup", "my new job", "this song", "the garden", "our trip", "the film"),
    ("I love {}, it makes me happy", "I hate {}, it makes me angry"),
)


BARE = ("--template", "{statement}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statements, feelings and pairs, each with rows to train on and rows to test on."""
    made = tmp_path_factory.mktemp("steer")
    pool = [{"statement": s.text, "label": s.label} for s in words()]
    write(made / "words.jsonl", pool[:96])
    write(made / "few_words.jsonl", pool[:24])
    write(made / "held.jsonl", pool[600:632])
    things, (love, hate) = FEELINGS
    rows = [{"text": t.format(x), "label": t is love} for x in things for t in (love, hate)]
    write(made / "feelings.jsonl", rows)
    for name, numbers in (("pairs", range(12)), ("other_pairs", range(12, 20))):
        letters = [("(A)", "(B)") if i % 2 else ("(B)", "(A)") for i in numbers]
        write(
            made / f"{name}.jsonl",
            [
                {
                    "question": f"Is {i} a number?\n (A) {'Yes' if a == '(A)' else 'No'}\n (B) other",
                    "answer_matching_behavior": a,
                    "answer_not_matching_behavior": b,
                }
                for i, (a, b) in zip(numbers, letters, strict=True)
            ],
        )
    return made


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(*arguments: object) -> int:
    threads = [] if arguments[0] in ("export", "import") else ["--threads", "1"]
    return main(["steer", *map(str, arguments), *threads])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    assert found.out == ""
    return found.err


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    """Every command loads its model; here equal ones are loaded once, which saves most of the time."""
    models: dict[object, SteeredModel] = {}

    def once(flags: ModelFlags, space: Literal["lora", "full"] = "full") -> SteeredModel:
        key = (flags.model, flags.adapter, flags.seed, flags.threads, flags.device, flags.template, space)
        model = models.get(key) or models.setdefault(key, SteeredModel(flags, space))
        model.flags = flags
        return model

    with pytest.MonkeyPatch.context() as patch:
        for tool in ("make", "bench", "generate"):
            patch.setattr(f"lineament.commands.steer.{tool}.SteeredModel", once)
        yield


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    """A CAA vector and the step's, of the feelings."""
    out = folder / "feelings.safetensors"
    assert run("make", folder / "feelings.jsonl", "--out", out, "--method", "both", *BARE, "--layers", "8-20") == 0
    return out


def test_make_writes_both_vectors_with_their_tags(made: Path, folder: Path) -> None:
    caa, step = load_vector(made), load_vector(folder / "feelings-step.safetensors")
    assert caa.layers == step.layers == tuple(range(8, 21))
    assert caa.width == 576
    assert (caa.tags.method, step.tags.method) == ("caa", "step-raw")
    assert caa.tags.model_hash == step.tags.model_hash
    assert caa.tags.n_layers == 30
    assert (caa.tags.contrast, caa.tags.position) == ("statement", "last")
    assert len(caa.tags.row_hashes) == caa.tags.n_examples == 16


def test_make_of_pairs_reads_the_answer_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "pairs.safetensors"
    assert run("make", folder / "pairs.jsonl", "--out", out, "--layers", "15", "--unit") == 0
    found = load_vector(out)
    assert (found.tags.contrast, found.tags.position, found.tags.normalisation) == ("answer", "answer", "unit")
    assert float(found.directions[15].norm()) == pytest.approx(1)
    assert "answer token" in " ".join(capsys.readouterr().out.split())


def test_a_chat_vector_is_read_where_the_assistant_begins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "chat.safetensors"
    few = folder / "few_chat.jsonl"
    write(few, [{"statement": f"{i} is odd.", "label": i % 2 == 1} for i in range(4)])
    assert run("make", few, "--out", out, "--layers", "2", "--chat", "--show-tokens") == 0
    text = capsys.readouterr().out
    assert text.count("<|im_start|>·user·\\n·") == 4
    assert text.count("·<|im_end|>·\\n·<|im_start|>·ass·istant·«\\n»\n") == 4
    assert load_vector(out).tags.chat


def test_eval_shows_that_the_vector_steers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "words.safetensors"
    assert run("make", folder / "words.jsonl", "--out", out, "--layers", "18") == 0
    capsys.readouterr()
    assert run("eval", out, folder / "held.jsonl", "--doses=-4,4", "--neutral", "2", "--no-collateral") == 0
    lines = capsys.readouterr().out.splitlines()
    doses = {line.split()[0]: float(line.split()[1]) for line in lines if line.split()[:1] in (["-4"], ["0"], ["4"])}
    assert doses["-4"] < doses["0"] < doses["4"]
    assert any("at a KL of 0.05" in line or "unreachable" in line for line in lines)
    assert all(len(line) <= 80 for line in lines if not line.startswith("vector:"))


def test_layers_of_a_style_are_compared_by_the_likelihood_of_texts(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside six of these sentences each, made of things that the vector has not seen."""
    held = folder / "held_feelings.jsonl"
    things = ("the sea", "a long letter", "this city", "my old car", "the bread", "our house")
    rows = [
        {"statement": form.format(thing), "label": i == 0} for thing in things for i, form in enumerate(FEELINGS[1])
    ]
    write(held, rows)
    capsys.readouterr()
    assert run("eval", made, held, "--layers", "10,16", "--neutral", "2", "--random", "1", "--show-tokens") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Compared (continuations): log-likelihood of the texts themselves" in text
    assert "row 1: «I· love· the· sea·" in text
    reported = text.partition("positive over negative texts ")[2]
    assert float(reported.split()[0]) > 0
    assert "1 random direction of the same KL" in text


def test_an_accuracy_of_the_majority_is_not_told_from_it() -> None:
    """A model that always says No has the accuracy of the more frequent answer."""
    targets = torch.tensor([[5]] * 22 + [[9]] * 10)
    ids = torch.ones(32, 2, dtype=torch.long)
    contrast = make_contrast(Batch(ids, ids, ids[:, :1], targets, (9, 5)), "statement")

    def text(correct: list[float]) -> str:
        n = len(correct)
        return majority_text(
            contrast.prompts, Answers(torch.zeros(n).double(), torch.tensor(correct).double(), torch.zeros(n).double())
        )

    always = text([1.0] * 22 + [0.0] * 10)
    assert "most frequent answer: 0.69; unsteered 0.69" in always
    assert "not told from it" in always
    assert "not told from it" not in text([1.0] * 31 + [0.0])


def test_generate_stands_side_by_side_and_zero_changes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["generate", made, "The garden is", "I think that my job", "--layer", "12", "--tokens", "6"]
    assert run(*base, "--coefficient", "0") == 0
    rows = table_rows(capsys.readouterr().out)
    assert all(plain == steered for _, plain, steered in rows)
    assert run(*base, "--coefficient", "8") == 0
    moved = table_rows(capsys.readouterr().out)
    assert [row[1] for row in moved] == [row[1] for row in rows]
    assert any(plain != steered for _, plain, steered in moved)


def table_rows(text: str) -> list[tuple[str, str, str]]:
    """Cells of the table; the lines of one row are joined."""
    rows: list[list[str]] = [[]]
    starts: list[int] = []
    for line in text.splitlines():
        rule = not line.strip() or set(line.strip()) <= set("─━-")
        if "unsteered" in line:
            starts = [line.index("prompt"), line.index("unsteered"), line.index("steered (")]
        elif starts and rule:
            rows.append([])
        elif starts:
            cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], len(line)], strict=True)]
            rows[-1] = [" ".join(pair) for pair in zip(rows[-1], cells, strict=True)] if rows[-1] else cells
    return [(a, b, c) for a, b, c in (row for row in rows if row)]


def test_export_and_import_keep_every_bit(made: Path, folder: Path) -> None:
    gguf, back = folder / "v.gguf", folder / "back.safetensors"
    assert run("export", made, gguf) == 0
    assert run("import", gguf, back) == 0
    first, second = load_vector(made), load_vector(back)
    assert first.layers == second.layers
    assert all(torch.equal(first.directions[layer], second.directions[layer]) for layer in first.layers)
    assert first.tags == second.tags


@pytest.fixture(scope="module")
def step(folder: Path) -> tuple[Path, Path, Path]:
    """A step's vector, the step as an adapter, and that adapter's vector."""
    vector, adapter, moved = folder / "step.safetensors", folder / "step", folder / "fromstep.safetensors"
    make = ["make", folder / "few_words.jsonl", "--layers", "20"]
    assert run(*make, "--out", vector, "--method", "step", "--save-step", adapter, "--step-norm", "0.05") == 0
    assert run(*make, "--out", moved, "--method", "adapter", "--adapter", adapter) == 0
    return vector, adapter, moved


def test_an_adapter_becomes_a_vector_and_a_step_an_adapter(step: tuple[Path, Path, Path]) -> None:
    vector, adapter, effect = step
    assert (adapter / "adapter_model.safetensors").exists()
    taken, moved = (load_vector(file).directions[20] for file in (vector, effect))
    assert float(torch.cosine_similarity(taken, moved, dim=0)) > 0.95
    assert float(moved.norm()) == pytest.approx(0.05 * float(taken.norm()), rel=0.3)


def test_what_an_adapter_does_steers_the_bare_model(
    folder: Path, step: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, out = step
    capsys.readouterr()
    assert run("eval", out, folder / "held.jsonl", "--neutral", "2", "--no-collateral", "--doses", "1") == 0
    assert "unsteered" in capsys.readouterr().out


def test_a_step_never_replaces_an_adapter_unasked(
    folder: Path, step: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, (_, adapter, _), out = folder / "words.jsonl", step, folder / "no.safetensors"
    make = ("make", data, "--out", out, "--method", "step", "--save-step", adapter)
    before = (adapter / "adapter_model.safetensors").read_bytes()
    assert "--overwrite" in refused(capsys, *make)
    assert "starts from" in refused(capsys, *make, "--adapter", adapter, "--overwrite")
    few = folder / "few.jsonl"
    write(few, [{"text": f"{i} x", "label": i % 2 == 0} for i in range(6)])
    assert "at least 4 of each" in refused(
        capsys, "make", few, "--out", out, "--method", "step", "--save-step", folder / "left"
    )
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    assert not out.exists()
    assert not (folder / "left").exists()


def test_models_of_other_families_are_steered_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GPT-2 has no q_proj, and this tokenizer no single token for the answers of pairs' data."""
    model = ("--model", tiny_gpt2(folder / "gpt2"))
    out = folder / "gpt2.safetensors"
    write(folder / "few.jsonl", [{"text": f"{i} is odd.", "label": i % 2 == 1} for i in range(16)])
    assert run("make", folder / "few.jsonl", "--out", out, "--method", "both", *model) == 0
    assert load_vector(out).layers == (1, 2)
    write(folder / "new.jsonl", [{"text": f"{i} is odd.", "label": i % 2 == 1} for i in range(20, 28)])
    assert run("eval", out, folder / "new.jsonl", "--neutral", "2", "--no-collateral", *model) == 0
    assert run("generate", out, "1 is", "--tokens", "3", *model) == 0
    assert "more than the 64" in refused(capsys, "generate", out, "1 is", "--tokens", "64", *model)
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    assert "UTF-8" in refused(capsys, "generate", out, "--file", folder / "latin.txt", *model)
    gguf = folder / "gpt2.gguf"
    assert "layer 1" in refused(capsys, "export", out, gguf)
    assert run("export", out, gguf, "--skip-first") == 0
    assert load_vector(out).tags.model_type == "gpt2"


def test_bad_input_is_refused_before_anything_is_written(
    made: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "never.safetensors"
    one_class = folder / "one.jsonl"
    write(one_class, [{"text": f"{i} x", "label": True} for i in range(5)])
    assert "5 positive and 0 negative" in refused(capsys, "make", one_class, "--out", out)
    assert "does not exist" in refused(capsys, "make", folder / "no.jsonl", "--out", out)
    assert "method" in refused(capsys, "make", one_class, "--out", out, "--method", "cab")
    assert "exists" in refused(capsys, "make", one_class, "--out", made)
    assert "layers of this model are 1 to 30" in refused(
        capsys, "make", folder / "words.jsonl", "--out", out, "--layers", "31"
    )
    assert not out.exists()
    leaks = refused(capsys, "eval", made, folder / "feelings.jsonl")
    assert "lines 1, 2, 3" in leaks
    assert "no layer 3" in refused(capsys, "eval", made, folder / "held.jsonl", "--layer", "3")
    narrow = folder / "narrow.safetensors"
    save_vector(SteeringVector({2: torch.ones(8)}), narrow)
    assert "width 8" in refused(capsys, "generate", narrow, "x")
    text = folder / "text.gguf"
    text.write_text("no vector")
    assert "GGUF" in refused(capsys, "generate", text, "x")
    assert "no prompt" in refused(capsys, "generate", made)
    assert "{statement}" in refused(capsys, "make", one_class, "--out", out, "--template", "x")


def test_a_vector_of_another_model_is_refused(made: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = read_vector(made)
    other = folder / "other.safetensors"
    save_vector(replace(vector, tags=replace(vector.tags, model_hash="0" * 16)), other)
    assert "Load the model and adapter" in refused(capsys, "generate", other, "x")


@pytest.mark.parametrize(
    ("text", "expected"), [("all", (1, 2, 3, 4, 5)), ("2", (2,)), ("1,3-5", (1, 3, 4, 5)), ("4-4,2", (2, 4))]
)
def test_layers_in_words(text: str, expected: tuple[int, ...]) -> None:
    assert parse_layers(text, 5) == expected


@pytest.mark.parametrize("text", ["0", "6", "a", "2-", "", "5-2", "1,,2"])
def test_bad_layers(text: str) -> None:
    with pytest.raises(InputError, match="--layers"):
        parse_layers(text, 5)


def test_a_vector_of_one_coordinate_is_named() -> None:
    one = torch.zeros(8)
    one[5] = 3.0
    vector = SteeringVector({2: torch.ones(8), 3: one, 4: torch.ones(8) + one}, VectorTags())
    (said,) = _narrow_texts("caa", vector)
    assert "caa: one coordinate holds more than half of |v|^2 (2 of 3 layers: 3 to 4)" in said
    assert not list(_narrow_texts("caa", SteeringVector({2: torch.ones(8)}, VectorTags())))
