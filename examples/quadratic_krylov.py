# %% [markdown]
# # A prefix of gradient descent is a Krylov space
#
# Loss L(theta) = theta' H theta / 2 - b' theta with a known H. Plain gradient descent takes the updates
# u_t = -lr g_t with g_(t+1) = (1 - lr H) g_t, so u_1 .. u_k span K_k(H, g) = span(g, H g, .., H^(k-1) g).
# Adam divides each coordinate by its own scale, and its updates leave that space.

# %%
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import torch
from torch import nn

from lineament import ParameterSpace, Recorder, Streams, Trajectory, from_vectors, krylov, overlap, principal_angles

N_PARAMS, STEPS, RANKS = 60, 20, (1, 2, 4, 6, 8, 10)
generator = Streams(0).generator("quadratic")
rotation = torch.linalg.qr(torch.from_numpy(generator.standard_normal((N_PARAMS, N_PARAMS)))).Q
hessian = rotation @ torch.diag(torch.logspace(-2, 0, N_PARAMS, dtype=torch.float64)) @ rotation.T
b = torch.from_numpy(generator.standard_normal(N_PARAMS))


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(N_PARAMS, dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return self.theta @ hessian @ self.theta / 2 - b @ self.theta


# %% [markdown]
# Record both optimizers. Rows must be float64: the later directions of a Krylov space differ only in the last digits.


# %%
def record(make_optimizer, folder: Path) -> Trajectory:
    model = Quadratic()
    optimizer = make_optimizer(model.parameters())
    recorder = Recorder(ParameterSpace.trainable(model), folder, dtype=torch.float64)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
        recorder.append()
    return recorder.close()


# %%
with tempfile.TemporaryDirectory() as temporary:
    descent = record(lambda p: torch.optim.SGD(p, lr=0.9), Path(temporary) / "sgd")
    adam = record(lambda p: torch.optim.Adam(p, lr=0.05), Path(temporary) / "adam")
    gradient = -b  # of L at theta = 0
    space = descent.space
    overlaps: dict[str, list[float]] = {"gradient descent": [], "Adam": []}
    print("k   largest angle (rad), gradient descent   overlap, gradient descent   overlap, Adam")
    for k in RANKS:
        basis = krylov(hessian.__matmul__, gradient, k, space)
        prefix = from_vectors(descent.updates(1, k), "prefix")
        angle = float(principal_angles(prefix, basis)[-1])
        adam_prefix = from_vectors(adam.updates(1, k), "prefix of Adam")
        overlaps["gradient descent"].append(float(overlap(prefix, basis)))
        overlaps["Adam"].append(float(overlap(adam_prefix, basis)))
        print(f"{k:2d}  {angle:37.1e}  {overlap(prefix, basis):26.6f}  {overlap(adam_prefix, basis):14.3f}")
        assert angle < 1e-6

# %%
figure = go.Figure()
for name, values in overlaps.items():
    figure.add_scatter(x=RANKS, y=values, name=name, mode="lines+markers")
figure.update_xaxes(title="k")
figure.update_yaxes(range=[0, 1.05], title="overlap with the Krylov space of rank k")
figure.update_layout(template="plotly_white", title="The first k updates of gradient descent span a Krylov space")
