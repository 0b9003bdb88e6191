# %% [markdown]
# # Does it matter in which order you fine-tune on two data sets?
#
# Take one gradient step on A, then one on B; or the other way round. The two ends differ by
# eta^2 (H_B g_A - H_A g_B) to leading order, with gradients and Hessians where you stand now (arXiv 2607.16821). So two
# gradients and two Hessian-vector products say ahead of any training from which step size on the order matters.

# %%
import plotly.graph_objects as go
import torch
from torch import nn

import lineament

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)).double()
space = lineament.ParameterSpace.trainable(model)

# %% [markdown]
# Two data sets with the same inputs and related answers: the sign of a sum, over other coordinates each time.


# %%
def data_set(first: int, last: int, n: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(n, 8, dtype=torch.float64)
    return inputs, (inputs[:, first:last].sum(dim=1) > 0).long()


def loss_on(inputs: torch.Tensor, labels: torch.Tensor):
    return lambda: nn.functional.cross_entropy(model(inputs), labels)


pretraining, a, b = (loss_on(*data_set(*which)) for which in ((0, 8), (0, 5), (3, 8)))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(150):
    optimizer.zero_grad()
    pretraining().backward()
    optimizer.step()

# %% [markdown]
# `kappa` is the share of the two steps together that their order changes, per unit of step size. The control is two
# halves of one data set: what they show is no difference between the data sets.

# %%
inputs, labels = data_set(0, 5, 512)
halves = loss_on(inputs[:256], labels[:256]), loss_on(inputs[256:], labels[256:])


def kappa(first, second) -> float:
    gradients = [space.gradient(loss()) for loss in (first, second)]
    return float(lineament.commutator(space, first, second).norm() / sum(gradients).norm())


between, within = kappa(a, b), kappa(*halves)
print(f"kappa between A and B: {between:.3f}; between two halves of A: {within:.3f}")
print(f"the order should change 10 % of a step from a step size of {0.1 / between:.2f} on")
print("step size   order defect   predicted")
for step_size in (0.001, 0.01, 0.1 / between):
    defect = lineament.order_defect(space, a, b, step_size)
    print(f"{step_size:9.3f}   {defect.relative:12.5f}   {step_size * between:9.5f}")
    assert defect.relative == lineament.order_defect(space, b, a, step_size).relative
assert abs(lineament.order_defect(space, a, b, 0.001).relative / (0.001 * between) - 1) < 0.02

# %% [markdown]
# And in training: the same number of plain gradient steps on A, then on B, and the other way round.


# %%
def trained(order, step_size: float, steps: int = 20) -> list[float]:
    with space.restored():
        for loss in order:
            for _ in range(steps):
                space.write(space.read() - step_size * space.gradient(loss()))
        return [float(a().detach()), float(b().detach())]


print("step size   loss of A, B after A then B   after B then A")
for step_size in (0.003, 0.03, 0.3):
    first, second = trained((a, b), step_size), trained((b, a), step_size)
    print(f"{step_size:9.3f}   {first[0]:13.3f}, {first[1]:.3f}   {second[0]:17.3f}, {second[1]:.3f}")

# %%
sizes = [0.001 * 2**i for i in range(12)]
measured = {
    "A and B": [lineament.order_defect(space, a, b, size).relative for size in sizes],
    "two halves of A": [lineament.order_defect(space, *halves, size).relative for size in sizes],
}
figure = go.Figure()
for (name, values), slope in zip(measured.items(), (between, within), strict=True):
    figure.add_scatter(x=sizes, y=values, mode="markers", name=name)
    figure.add_scatter(
        x=sizes,
        y=[slope * size for size in sizes],
        name="predicted",
        mode="lines",
        line={"dash": "dot", "color": "grey"},
    )
figure.update_xaxes(type="log", title="step size")
figure.update_yaxes(type="log", title="order defect (share of both steps)")
figure.update_layout(template="plotly_white", title="From which step size on the order of two data sets matters")
