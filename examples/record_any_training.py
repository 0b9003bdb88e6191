# %% [markdown]
# # Record any training loop
#
# `Recorder` needs one line before the loop, one in it and one after it. The recording then answers questions from its
# Gram matrix (n_steps, n_steps): how much of the whole displacement do the first k updates hold?

# %%
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from torch import nn

from lineament import ParameterSpace, Recorder

torch.manual_seed(0)
torch.set_num_threads(1)
STEPS = 120
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
x = torch.randn(512, 8)
labels = (x[:, :3] + x[:, 3:6]).argmax(dim=1)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

# %%
with tempfile.TemporaryDirectory() as temporary:
    recorder = Recorder(ParameterSpace.trainable(model), Path(temporary) / "recording", optimizer=optimizer)
    for _ in range(STEPS):
        batch = torch.randint(len(x), (64,))
        loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.append()
    trajectory = recorder.close()
    gram = trajectory.gram()

# %% [markdown]
# A vector is a column of weights over steps. `whole` stands for D = u_1 + .. + u_T, and `rest` for D without the first
# k updates. Updates at random times are the control: if they hold as much, the prefix is not special.

# %%
whole = gram.displacement(1, STEPS)
print(f"loss at the last step {loss.item():.3f} nats; |D| = {gram.squared_norm(whole) ** 0.5:.3f} over {STEPS} updates")
print("k   k / T   prefix: whole   rest   random times: whole")
draws = np.random.default_rng(0)
RANKS = (1, 2, 5, 10, 20)
curves: dict[str, list[float]] = {
    "first k updates": [],
    "k updates at random times": [],
    "the rest, in the first k": [],
}
for k in RANKS:
    basis = gram.prefix(k)
    rest = gram.displacement(k + 1, STEPS)
    spans = [gram.span((1 + draws.permutation(STEPS)[:k]).tolist()) for _ in range(20)]
    random_times = np.mean([gram.capture(span, whole) for span in spans])
    captured, left = gram.capture(basis, whole), gram.capture(basis, rest)
    for curve, value in zip(curves.values(), (captured, random_times, left), strict=True):
        curve.append(float(value))
    print(f"{k:2d}  {k / STEPS:5.3f}  {captured:14.3f}  {left:5.3f}  {random_times:20.3f}")

# %% [markdown]
# The top directions of all updates hold much of the path in few directions. They are a reference, not a bound.

# %%
for k in (1, 2, 5):
    print(f"top {k} directions of all updates capture {gram.capture(gram.top(k, STEPS), whole):.3f} of D")

# %%
figure = go.Figure()
for name, values in curves.items():
    figure.add_scatter(x=RANKS, y=values, name=name, mode="lines+markers")
figure.add_scatter(x=RANKS, y=[k / STEPS for k in RANKS], name="k / T", line={"dash": "dot", "color": "grey"})
figure.update_xaxes(type="log", tickvals=RANKS, title="k")
figure.update_yaxes(range=[0, 1], title="share of the squared displacement")
figure.update_layout(template="plotly_white", title="Where a training goes lies in few of its updates")
