# %% [markdown]
# # A GPT-2 from scratch, recorded by transformers' Trainer, as a model to measure
#
# Trains a small GPT-2 and a byte-level tokenizer on a text file, records every tenth update with `LineamentCallback`,
# and saves the model as a folder that `lineament run lm` loads. Without arguments it makes its own text and trains for
# few steps. On a real text it takes a few minutes:
#
#     python examples/gpt2_from_scratch.py --text input.txt --steps 1500 --out shakespeare
#     lineament analyze shakespeare/recording
#     lineament run lm --model shakespeare/model --data input.txt --set task.names=input --preset quick

# %%
import argparse
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from lineament import LineamentCallback
from lineament.problems.statements import STATEMENT_TASKS

parser = argparse.ArgumentParser()
parser.add_argument("--text", type=Path, help="UTF-8 text; default: statements that lineament makes itself")
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--length", type=int, default=64, help="tokens per example")
parser.add_argument("--vocabulary", type=int, default=1000)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--out", type=Path, help="folder of model and recording; default: a temporary one")
options = parser.parse_args(sys.argv[1:] if "__file__" in globals() else [])
temporary = tempfile.TemporaryDirectory()
out = options.out or Path(temporary.name)
torch.manual_seed(0)
torch.set_num_threads(options.threads)
made = "\n".join(statement.text for make in STATEMENT_TASKS.values() for statement in make())
text = options.text.read_text(encoding="utf-8") if options.text else made

# %% [markdown]
# Train a byte-level BPE tokenizer on the text itself: it can encode any text, and nothing is downloaded.

# %%
bpe = ByteLevelBPETokenizer()
bpe.train_from_iterator(text.splitlines(), vocab_size=options.vocabulary, special_tokens=["<|endoftext|>"])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
)
ids = torch.tensor(tokenizer(text)["input_ids"])
blocks = ids[: len(ids) // options.length * options.length].view(-1, options.length)
n_held = max(1, len(blocks) // 20)
training, held_out = blocks[:-n_held], blocks[-n_held:]
print(f"{len(text):,} characters, {len(ids):,} tokens, {len(blocks):,} blocks of {options.length}")

# %%
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=2 * options.length,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
)


def held_out_loss() -> float:
    """Nats per token."""
    model.eval()
    with torch.no_grad():
        parts = [model(input_ids=part, labels=part).loss for part in held_out.split(32)]
    return float(torch.stack(parts).mean())


# %% [markdown]
# The callback is one argument. `every=10` writes one row per ten steps to disk; bfloat16 halves its size.

# %%
before = held_out_loss()
callback = LineamentCallback(out / "recording", every=10, dtype=torch.bfloat16, task="text")
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=2e-3,
        warmup_steps=min(100, options.steps // 10),
        lr_scheduler_type="cosine",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=options.out is None,
    ),
    train_dataset=[{"input_ids": block, "labels": block} for block in training],
    data_collator=default_data_collator,
    callbacks=[callback],
)
trainer.remove_callback(PrinterCallback)  # the numbers that it prints are given below
trainer.train()
print(f"held-out loss {before:.2f} -> {held_out_loss():.2f} nats per token after {options.steps} steps")

# %%
model.save_pretrained(out / "model")
tokenizer.save_pretrained(out / "model")
gram = callback.trajectory().gram()
whole = gram.displacement(1, gram.n_steps)
print(f"{gram.n_steps} rows of {gram.space.n_params:,} parameters")
for k in (1, 2, 3):
    print(f"the first {k} rows hold {gram.capture(gram.prefix(k), whole):.2f} of the whole displacement")

# %%
rows = list(range(1, gram.n_steps + 1))
figure = go.Figure()
figure.add_scatter(x=rows, y=[gram.capture(gram.prefix(k), whole) for k in rows], name="first k rows")
figure.add_scatter(x=rows, y=[gram.capture(gram.top(k, gram.n_steps), whole) for k in rows], name="top k directions")
figure.update_xaxes(title="k, of rows of ten steps")
figure.update_yaxes(range=[0, 1.05], title="share of the squared displacement")
figure.update_layout(template="plotly_white", title="Where a GPT-2's training from scratch goes")
