# %% [markdown]
# # How fast does a plane of gradients go stale?
#
# Projected optimizers (GaLore and its kin) train inside a plane of gradients and make a new one now and then. How
# often is often enough? Record a training with its gradients. Overlap says how far planes turn; retention says how
# much of the *energy* of later gradients an old plane still holds, which is what such an optimizer lives on. They
# need not agree.

# %%
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch
from torch import nn

import lineament

torch.manual_seed(0)
torch.set_num_threads(1)
STEPS = 240
teacher = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4))
model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4))
inputs = torch.randn(2048, 12)
with torch.no_grad():
    wanted = 3 * teacher(inputs)

# %% [markdown]
# `take_gradient` keeps the gradient of a step beside its update.

# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
with tempfile.TemporaryDirectory() as temporary:
    space = lineament.ParameterSpace.trainable(model)
    recorder = lineament.Recorder(space, Path(temporary) / "recording", gradients=True, optimizer=optimizer)
    for _ in range(STEPS):
        picked = torch.randint(len(inputs), (64,))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs[picked]), wanted[picked])
        loss.backward()
        recorder.take_gradient()
        optimizer.step()
        recorder.append()
    trajectory = recorder.close()
    options = lineament.AnalysisOptions(window=16, plane_rank=4)
    record = lineament.analyze_recording(trajectory, "teacher", 0, options)

# %% [markdown]
# The half-life of the overlap, and the lag at which an old plane holds 90 % and 50 % of what a fresh one holds.

# %%
for quantity in record.quantities:
    if quantity.name in ("plane_half_life", "refresh_lag"):
        labels = " ".join(f"{name}={value}" for name, value in quantity.labels.items())
        value = "-" if quantity.value is None else f"{quantity.value:.0f} {quantity.unit}"
        print(f"{quantity.name:16} {value:12} {quantity.reason or ''} ({labels})")

# %% [markdown]
# Both curves, each on the scale from a random plane (0) to a fresh one (1). `lineament.Results((record,),
# claims=()).plot(...)` draws the pictures of the report.


# %%
def curve(name: str) -> tuple[list[float], list[float]]:
    """Lags and values of a quantity over the whole run."""
    found = [q for q in record.quantities if q.name == name and q.labels["from"] == "all" and q.value is not None]
    return [float(q.labels["lag"]) for q in found], [q.value for q in found if q.value is not None]


figure = go.Figure()
for name, words in (("plane_rescaled", "overlap"), ("retention_share", "energy of later gradients")):
    lags, values = curve(name)
    figure.add_scatter(x=lags, y=values, name=words, mode="lines+markers")
figure.add_hline(y=0.9, line={"dash": "dot", "color": "grey"})
figure.update_xaxes(title="lag (steps)")
figure.update_yaxes(title="share of what a fresh plane has", range=[0, 1.1])
figure.update_layout(template="plotly_white", title="How long a plane of gradients stays as good as a fresh one")
