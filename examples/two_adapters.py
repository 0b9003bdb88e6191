# %% [markdown]
# # Will two adapters fight when they are merged?
#
# Adding adapters A and B to one base changes a loss by what each does alone, plus their interference
# I(s, t) = L(s A + t B) - L(s A) - L(t B) + L(0). To second order it is s t A'HB, with the Hessian H at the base: one
# Hessian-vector product, before any sum is tried. That is good for small scales; for whole adapters take it half-way to
# the sum.

# %%
import copy
import tempfile
import warnings

import plotly.graph_objects as go
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

import lineament

warnings.filterwarnings("ignore", message="fan_in_fan_out|.*is_gradient_checkpointing")
torch.manual_seed(0)
torch.set_num_threads(1)
DIGITS, LENGTH, TASKS = 10, 4, ("reverse", "add one", "sort")

# %% [markdown]
# A small GPT-2 learns three tasks on digits, by half: a task token, four digits, a separator, and four answers.


# %%
def examples(task: str, n: int) -> lineament.Batch:
    digits = torch.randint(DIGITS, (n, LENGTH))
    answers = {"reverse": digits.flip(1), "add one": (digits + 1) % DIGITS, "sort": digits.sort(dim=1).values}[task]
    first, separator = torch.full((n, 1), DIGITS + TASKS.index(task)), torch.full((n, 1), DIGITS + len(TASKS))
    ids = torch.cat([first, digits, separator, answers[:, :-1]], dim=1)
    positions = torch.arange(LENGTH + 1, 2 * LENGTH + 1).expand(n, -1)
    return lineament.Batch(ids, torch.ones_like(ids), positions, answers, range(DIGITS))


def loss(model, batch: lineament.Batch) -> torch.Tensor:
    logits = model(batch.input_ids).logits[:, LENGTH + 1 :]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())


def train(model, tasks: tuple[str, ...], steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, examples(tasks[step % len(tasks)], 64)).backward()
        optimizer.step()


sizes = {"vocab_size": 16, "n_positions": 16, "n_embd": 48, "n_layer": 2, "n_head": 4}
config = GPT2Config(**sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
base = GPT2LMHeadModel(config)
train(base, TASKS, 600, 3e-3)

# %% [markdown]
# Three adapters, each trained for one task on a copy of that base and saved by PEFT.

# %%
adapters = {}
for task in TASKS:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    adapted = get_peft_model(copy.deepcopy(base), lora)
    train(adapted, (task,), 40, 2e-3)
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        adapters[task] = lineament.read_adapter(folder)

# %% [markdown]
# Every pair, on fresh examples of both tasks. The cosine of the two changes of weights says next to nothing.

# %%
problem = lineament.InMemoryProblem(base, {"any": examples("sort", 16)}, 4, seed=0)
options = lineament.CompositionOptions(scales=(0.25, 0.5, 1.0))
points: dict[str, list[tuple[float, float, str]]] = {"from the base": [], "from half-way to the sum": []}
print("pair, data                   I(1, 1)   half-way   at base   I(.25, .25)   at base   cosine")
for first, second in (("reverse", "add one"), ("reverse", "sort"), ("add one", "sort")):
    pair = adapters[first], adapters[second]
    found = lineament.interference(problem, pair, (examples(first, 64), examples(second, 64)), options)
    cosine = lineament.adapter_cosine(*pair)
    for data, name in enumerate((first, second)):
        measured, predicted = found.measured(data), found.predicted(data)
        middle = float(found.meetings[data].middle.mean())
        pairs = zip(points.values(), (predicted[-1, -1], middle), strict=True)
        for where, foretold in pairs:
            where.append((float(foretold), float(measured[-1, -1]), f"{first} + {second}, {name}"))
        print(
            f"{first} + {second}, {name:8}".ljust(27)
            + f"{measured[-1, -1]:9.3f} {middle:10.3f} {predicted[-1, -1]:9.3f}"
            + f"{measured[1, 1]:14.4f} {predicted[1, 1]:9.4f} {cosine:8.2f}"
        )

# %%
figure = go.Figure()
for name, of in points.items():
    x, y, text = zip(*of, strict=True)
    figure.add_scatter(x=x, y=y, text=text, name=name, mode="markers", marker={"size": 10})
ends = [limit(number for of in points.values() for one in of for number in one[:2]) for limit in (min, max)]
figure.add_scatter(x=ends, y=ends, mode="lines", name="predicted = measured", line={"dash": "dot", "color": "grey"})
figure.update_xaxes(title="predicted interference of the two adapters (nats)")
figure.update_yaxes(title="measured (nats)")
figure.update_layout(template="plotly_white", title="How two adapters interfere, foretold by curvature")
