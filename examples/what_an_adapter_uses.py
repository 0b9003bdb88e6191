# %% [markdown]
# # How many directions of a LoRA adapter are used, and how many are noise?
#
# A teacher differs from a base model by a change of rank 2. One adapter of rank 8 learns from the teacher; another one
# learns from answers that hold nothing but noise. Their folders alone tell them apart: no model, no data.

# %%
import tempfile
import warnings
from pathlib import Path

import plotly.graph_objects as go
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import lineament

warnings.simplefilter("ignore")
torch.set_num_threads(1)
torch.manual_seed(0)
base = nn.Sequential(nn.Linear(96, 64), nn.Tanh(), nn.Linear(64, 48))
change = [torch.randn(m.out_features, 2) @ torch.randn(2, m.in_features) / 30 for m in base if isinstance(m, nn.Linear)]


def teacher(x: torch.Tensor) -> torch.Tensor:
    hidden = torch.tanh(x @ (base[0].weight + change[0]).T + base[0].bias)
    return hidden @ (base[2].weight + change[1]).T + base[2].bias


# %% [markdown]
# Both adapters are trained alike. Their answers differ: the teacher's with a little noise, or the base model's own with
# noise alone, so that there is nothing to learn.


# %%
def trained(name: str, answers, seed: int) -> Path:
    torch.manual_seed(seed)
    frozen = [parameter.detach().clone() for parameter in base.parameters()]
    adapted = get_peft_model(nn.Sequential(*base), LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"]))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(400):
        x = torch.randn(64, 96)
        with torch.no_grad():
            wanted = answers(x, frozen)
        optimizer.zero_grad()
        nn.functional.mse_loss(adapted(x), wanted).backward()
        optimizer.step()
    folder = Path(tempfile.mkdtemp()) / name
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def of_the_base(x: torch.Tensor, frozen: list[torch.Tensor]) -> torch.Tensor:
    return torch.tanh(x @ frozen[0].T + frozen[1]) @ frozen[2].T + frozen[3]


taught = trained("taught", lambda x, frozen: teacher(x) + 0.1 * torch.randn(len(x), 48), seed=1)
noise = trained("noise", lambda x, frozen: of_the_base(x, frozen) + torch.randn(len(x), 48), seed=2)

# %% [markdown]
# `used` is the number of directions that hold 90 % of |dW|^2. A blind training, fed noise, uses nearly all that was
# paid for. Above noise stand the singular values that 95 of 100 blind modules do not have.

# %%
figure = go.Figure()
for folder in (taught, noise):
    spectrum = lineament.adapter_spectrum(lineament.read_adapter(folder))
    used, blind = spectrum.used(0.9), spectrum.blind_used(0.9)
    print(f"{folder.name}: rank {spectrum.paid:g} paid for, {used:g} used, a blind training {blind:g}")
    for module in spectrum.modules:
        values = module.values / module.values[0]
        figure.add_scatter(y=values, x0=1, name=f"{folder.name}, module {module.module}", mode="lines+markers")
        print(f"   module {module.module}: {module.above_floor} of {len(module.values)} above noise")

# %% [markdown]
# What was learned fits into rank 2, with the error known before anything is evaluated.

# %%
cut = lineament.truncate_to_rank(lineament.read_adapter(taught), 2)
print(f"cut to rank 2, the taught adapter is off by {100 * cut.error:.0f} % of |dW|")
pair = lineament.compare_adapters([lineament.read_adapter(folder) for folder in (taught, noise)]).pairs[0, 1]
print(f"cosine of both changes: {pair.cosine:.3f}, by chance 0 ± {pair.cosine_spread:.3f}")

# %%
figure.update_xaxes(title="singular direction of dW")
figure.update_yaxes(range=[0, 1.05], title="singular value, of the largest")
figure.update_layout(template="plotly_white", title="What was learned stands out of a LoRA adapter, noise does not")
