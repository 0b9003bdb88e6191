# %% [markdown]
# # How much of a fine-tuning is in its first few updates?
#
# The first updates of a training can hold a large share of the whole way. That is not yet a large share of what was
# learned: the end point projected on them may be worse than the start, and training inside them may do better than
# either share says. So train inside them, and see.

# %%
import tempfile
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from torch import nn

import lineament

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(16, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))
space = lineament.ParameterSpace.trainable(model)
inputs = torch.randn(2048, 16)
before, after = ((inputs[:, :n].sum(dim=1) > 0).long() for n in (16, 8))  # what is learned first, and then
training, held_out = (inputs[:1024], after[:1024]), (inputs[1024:], after[1024:])


def loss_on(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(rows), targets)


def train(optimizer: torch.optim.Optimizer, steps: int, targets: torch.Tensor = after) -> None:
    order = torch.Generator().manual_seed(0)
    for _ in range(steps):
        picked = torch.randint(len(training[0]), (64,), generator=order)
        optimizer.zero_grad()
        loss_on(inputs[:1024][picked], targets[:1024][picked]).backward()
        optimizer.step()


# %% [markdown]
# The whole fine-tuning, recorded. Its first ten updates are the basis; ten random directions are the control.

# %%
STEPS, K = 200, 10
train(torch.optim.AdamW(space.tensors, lr=3e-3), 300, before)
start = space.read()
with tempfile.TemporaryDirectory() as folder:
    optimizer = torch.optim.AdamW(space.tensors, lr=1e-3)
    recorder = lineament.Recorder(space, Path(folder) / "recording", optimizer=optimizer)
    optimizer.register_step_post_hook(lambda *_: recorder.append())
    train(optimizer, STEPS)
    trajectory = recorder.close()
    prefix = lineament.from_vectors(trajectory.updates(1, K), f"first {K} updates")
end = space.read()
loss_end = loss_on(*held_out).item()
space.write(start)
loss_start = loss_on(*held_out).item()
random = lineament.random_basis(space.space, K, np.random.default_rng(0), f"{K} random directions")
way = lineament.Vectors((end - start)[None], space.space)
print(f"{space.n_params} parameters, held-out loss {loss_start:.3f} to {loss_end:.3f} in {STEPS} steps")


# %% [markdown]
# `SubspaceOptimizer` trains the coefficients of a basis with the optimizer that it is given. AdamW moves a coefficient
# by about its step size, whatever their number; a step size is chosen on the training data.


# %%
def share(loss: float) -> float:
    """Share of the whole training's loss drop."""
    return (loss_start - loss) / (loss_start - loss_end)


def trained_inside(basis: lineament.Basis) -> tuple[float, torch.Tensor]:
    """Held-out loss and coefficients at the best of three step sizes."""
    found = []
    for lr in (0.01, 0.03, 0.1):
        space.write(start)
        inside = lineament.SubspaceOptimizer(torch.optim.AdamW(space.tensors, lr=lr), basis, space)
        train(inside, STEPS)
        found.append((loss_on(*training).item(), loss_on(*held_out).item(), inside.coefficients))
    _, loss, coefficients = min(found, key=lambda one: one[0])
    return loss, coefficients


print(f"{'':22} share of the way   projected end   trained inside")
shares = {}
bars: dict[str, list[float]] = {}
for basis in (prefix, random):
    with space.temporarily(start + lineament.project(basis, way).rows[0]):
        projected = loss_on(*held_out).item()
    loss, coefficients = trained_inside(basis)
    shares[basis.label] = share(loss)
    captured = lineament.capture(basis, way).item()
    bars[basis.label] = [captured, share(projected), share(loss)]
    print(f"{basis.label:22} {captured:16.2f} {share(projected):15.2f} {share(loss):16.2f}")
assert shares[prefix.label] > shares[random.label] + 0.1

# %% [markdown]
# Without its control the last column would mislead: the model is sure of what is now wrong, and even random directions
# can take most of that loss away.
#
# What was trained is K numbers. They are kept with the hashes of their basis and of the weights that they start from,
# and go back on with these alone; `save_basis` keeps a basis bit for bit.

# %%
loss, coefficients = trained_inside(prefix)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "coefficients.safetensors"
    lineament.save_coefficients(path, coefficients, prefix, start)
    lineament.save_basis(Path(folder) / "basis.safetensors", prefix)
    basis = lineament.load_basis(Path(folder) / "basis.safetensors", space.space)
    print(f"{path.stat().st_size} bytes on disk for a training of {space.n_params} parameters")
    space.write(start)
    lineament.apply_coefficients(path, basis, space)
print(f"held-out loss {loss:.3f}, from the file {loss_on(*held_out).item():.3f}")
assert abs(loss_on(*held_out).item() - loss) < 1e-4

# %%
KINDS = ["displacement", "loss drop,<br>projected end", "loss drop,<br>trained inside"]
figure = go.Figure([go.Bar(x=KINDS, y=values, name=label) for label, values in bars.items()])
figure.update_yaxes(title="share of the whole training")
figure.update_layout(
    template="plotly_white", title="What ten directions hold, and what training inside them brings back"
)
