# %% [markdown]
# # Measure a model of your own
#
# `lineament.measure` takes a trained module and a pool of examples per task. It damages one task, recovers it with an
# adapter, records every update of the recovery, and returns records and claims. The module's weights come back bit for
# bit.

# %%
from collections.abc import Callable

import torch
from torch import Tensor, nn

import lineament

N_DIGITS, LENGTH, EXAMPLES = 10, 4, 600
TASKS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "maximum": (10, lambda digits: digits.max(dim=1).values),
    "sum": (11, lambda digits: digits.sum(dim=1) % N_DIGITS),
}
torch.manual_seed(0)
torch.set_num_threads(1)


# %% [markdown]
# Any module will do if `model(input_ids, attention_mask=...)` returns logits (n, length, n_vocabulary), or an object
# with `.logits`, as models of transformers do.


# %%
class TinyModel(nn.Module):
    """Reads a task token and four digits; its logits at the last position answer the task."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_DIGITS + len(TASKS), width)
        self.mix = nn.Linear((1 + LENGTH) * width, 96)
        self.hidden = nn.Linear(96, 96)
        self.head = nn.Linear(96, N_DIGITS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(input_ids).flatten(1)
        x = torch.relu(self.hidden(torch.relu(self.mix(x))))
        return self.head(x)[:, None].expand(-1, input_ids.shape[1], -1)


def examples(token: int, answer: Callable[[Tensor], Tensor], n: int) -> lineament.Batch:
    """n examples of a task, with the answer wanted at the last position."""
    digits = torch.randint(N_DIGITS, (n, LENGTH))
    ids = torch.cat([torch.full((n, 1), token), digits], dim=1)
    return lineament.Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        positions=torch.full((n, 1), LENGTH),
        targets=answer(digits)[:, None],
        choices=tuple(range(N_DIGITS)),
    )


# %%
model = TinyModel()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(500):
    batches = [examples(*task, 128) for task in TASKS.values()]
    losses = [nn.functional.cross_entropy(model(b.input_ids)[:, -1], b.targets[:, 0]) for b in batches]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
print("training loss, nats:", {name: round(loss.item(), 3) for name, loss in zip(TASKS, losses, strict=True)})

# %% [markdown]
# Two seeds give an interval, though a wide one. `lineament keys` lists every setting.

# %%
before = [p.detach().clone() for p in model.parameters()]
results = lineament.measure(
    model,
    {name: examples(*task, EXAMPLES) for name, task in TASKS.items()},
    target="maximum",
    seeds=2,
    settings={
        "task.evaluation_examples": 100,
        "lora.rank": 4,
        "operating.steps": 30,
        "damage.steps": 30,
        "damage.lr": 1e-3,
        "recovery.steps": 60,
        "recovery.lr": 1e-3,
        "measurement.ranks": [1, 2, 5],
        "measurement.headline_rank": 5,
        "measurement.gradients": 32,
        "measurement.drift_gradients": 8,
        "measurement.lanczos_steps": 10,
        "measurement.inside_steps": 15,
    },
)
assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

# %% [markdown]
# In a notebook `results` alone shows the verdicts as a table. `plot` draws the figures of the report.
# With `out="runs/mine"` above, `lineament.open_run("runs/mine")` opens the same another day.

# %%
print(results)
for claim in results.claims:
    interval = f"[{claim.low:.2f}, {claim.high:.2f}]" if claim.low is not None else "no interval"
    measured = "-" if claim.measured is None else f"{claim.measured:.2f}"
    print(f"{claim.id:26} {measured:>6} {interval:14} {claim.verdict}")
print("figures:", ", ".join(results.figures))
figure = results.plot("capture")
print(f"capture: {figure.title}")

# %% [markdown]
# `results.to_pandas()` has one row for each quantity, and `results.report("page.html")` writes the whole report.

# %%
captures = next(record for record in results.records if record.measurement == "basis_capture")
steps = captures.value("recovery_steps")
print(f"seed 0 was back at 95 % of its accuracy after {steps:.0f} updates" if steps else "seed 0 did not recover")
