"""A folder with everything that commands of the documentation name, as small as each can be."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from command_line import lineament_here
from families import FAMILIES, write_tokenizer
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from lineament import LineamentCallback
from lineament.problems.statements import STATEMENT_TASKS

TARGETS = ["q_proj", "v_proj"]
PAIR = {"question": "Is {} a number?\n (A) Yes\n (B) No", "answer_matching_behavior": "(A)"}


def base_model() -> LlamaForCausalLM:
    """A random model of four layers, the same every time, that reads long prompts."""
    sizes = {**FAMILIES["llama"][2], "num_hidden_layers": 4, "max_position_embeddings": 512}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def write_workshop(folder: Path) -> None:
    """Fill the folder: a model, adapters, data, vectors, a recorded training with its checkpoints."""
    base = folder / "path/to/base"
    base_model().save_pretrained(base)
    write_tokenizer(base)
    shutil.copytree(base, folder / "path/to/folder")
    names = ("math", "code", "chat", "adapters/sql", "adapters/chat", "path/to/adapter", "path/to/step-0", "adapter")
    for seed, name in enumerate(names):
        adapted(seed, init_lora_weights=name == "path/to/step-0").save_pretrained(folder / name)
    write_data(folder)
    for seed, name in enumerate(("recording", "seed0", "seed1", "seed2", "shuffled")):
        record(folder, name, seed)
    shutil.copytree(folder / "outputs/checkpoint-12", folder / "checkpoint-100")
    for name, rows in (("honest", "data"), ("joy", "reviews"), ("formal", "held_out")):
        made = ["--out", f"{name}.safetensors", "--layers", "2-3", "--model", "path/to/base", "--threads", "1"]
        ran(folder, "steer", "make", f"{rows}.jsonl", *made)
    ran(folder, "steer", "export", "honest.safetensors", "elsewhere.gguf", "--model-type", "llama")


def ran(folder: Path, *command: str) -> None:
    done = lineament_here(*command, cwd=folder)
    assert done.returncode == 0, (command, done.stderr)


def adapted(seed: int, **options: Any) -> nn.Module:
    """The model of the folder with an adapter."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, **options)
        return get_peft_model(base_model(), config)


def write_data(folder: Path) -> None:
    """Write data files of every shape that a page names."""
    pool = [{"statement": s.text, "label": s.label} for s in STATEMENT_TASKS["words"]()]
    for name, part in (("data", 0), ("held_out", 1), ("reviews", 0), ("train", 1), ("sql", 0)):
        write_rows(folder / f"{name}.jsonl", pool[300 * part : 300 * (part + 1)])
    write_rows(folder / "boolq.jsonl", [{"question": s["statement"], "answer": s["label"]} for s in pool[:300]])
    write_rows(folder / "chat.jsonl", [{"prompt": f"{i} is", "completion": f" {i + 1} less 1"} for i in range(80)])
    shutil.copy(Path(__file__).parents[1] / "examples/moods.jsonl", folder)
    (folder / "book.txt").write_text("\n".join(str(row["statement"]) for row in pool[:800]))


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def record(folder: Path, name: str, seed: int) -> None:
    """Train an adapter for some steps on a data file, recorded with gradients; the first one's checkpoints are kept."""
    model, args, data = training(folder, seed, save_strategy="steps" if name == "recording" else "no", save_steps=2)
    if name == "recording":
        model.save_pretrained(folder / "outputs/step-0")
    callback = LineamentCallback(folder / name, gradients=True, task="train")
    Trainer(
        model=model, args=args, train_dataset=data, data_collator=default_data_collator, callbacks=[callback]
    ).train()


def training(folder: Path, seed: int = 0, **options: Any) -> tuple[nn.Module, TrainingArguments, list[dict[str, Any]]]:
    """Model, arguments and data of a short training, as a user of transformers has them."""
    arguments = TrainingArguments(
        output_dir=str(folder / "outputs"), max_steps=24, per_device_train_batch_size=8, learning_rate=1e-2, seed=seed,
        use_cpu=True, report_to=[], logging_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", **options,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder / "path/to/base")
    texts = [json.loads(line)["statement"] for line in (folder / "train.jsonl").read_text().splitlines()]
    ids = [torch.tensor(tokenizer(text)["input_ids"][:16]) for text in texts]
    rows = [{"input_ids": row, "labels": row} for row in ids if len(row) == 16]
    return adapted(seed), arguments, rows
