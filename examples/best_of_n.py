# %% [markdown]
# # What does the best of N random steps gain?
#
# Random search adds noise to the weights, keeps the best of N draws and needs no gradient. One gradient and the
# curvature say beforehand what it gains: sigma |g| m_N, with m_N the mean of the largest of N standard normals, less
# what curvature takes. Here both are compared with what 2000 draws give.

# %%
import numpy as np
import plotly.graph_objects as go
import torch
from torch import nn

import lineament
from lineament.theory import best_sigma, linear_gain, second_order_gain

torch.manual_seed(0)
torch.set_num_threads(1)
WORDS, WIDTH, N = 12, 24, 64

# %% [markdown]
# A model that has half learned to name the word after the next one.


# %%
class NextButOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WORDS)
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.layers(input_ids)


ids = torch.randint(WORDS, (400, 1))
data = lineament.Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), (ids + 2) % WORDS, range(WORDS))
model = NextButOne()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(30):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(ids, data.attention_mask)[:, 0], data.targets[:, 0]).backward()
    optimizer.step()

# %% [markdown]
# Gradient and curvature of the loss on the batch that the draws will be scored on: one backward pass, and
# Hessian-vector products with random signs for the trace.

# %%
problem = lineament.InMemoryProblem(model, {"next but one": data}, 64, seed=0, kind="full")
batch = problem.fixed("next but one", "evaluation")
operator = lineament.HessianOperator(problem, batch)
here = lineament.estimate_curvature(
    operator, np.random.default_rng(0), relative_error=0.03, max_probes=2000
).curvature()
best = best_sigma(here, N)
print(f"{problem.parameters.n_params} parameters, loss {problem.loss(batch).item():.2f} nats")
print(f"|g| = {here.gradient_norm:.2f}, tr H = {here.trace:.0f}; the best step is {best:.3f} for {N} draws")

# %% [markdown]
# Draws of seven step sizes. `mean_best` takes the mean over all subsets of N, which has no bias.

# %%
population = lineament.Population(problem, batch)
region = lineament.Region("full", problem.parameters)
sigmas = best * np.geomspace(1 / 16, 2, 7)
found = []
print("sigma    measured          linear   second order")
for sigma in sigmas:
    scores = population.score(region.members(lineament.Streams(0), range(2000), sigma))
    found.append(lineament.mean_best(scores.gains, N))
    linear, second = linear_gain(sigma, here.gradient_norm, N), second_order_gain(sigma, here, N)
    print(f"{sigma:.4f}   {found[-1].value:7.4f} ± {found[-1].stderr:.4f}  {linear:7.4f}  {second:7.4f}")
assert abs(found[0].value / second_order_gain(sigmas[0], here, N) - 1) < 0.1

# %%
fine = np.geomspace(sigmas[0], sigmas[-1], 80)
figure = go.Figure()
figure.add_scatter(x=fine, y=[linear_gain(s, here.gradient_norm, N) for s in fine], name="predicted by the gradient")
figure.add_scatter(x=fine, y=[second_order_gain(s, here, N) for s in fine], name="and by curvature")
errors = {"type": "data", "array": [2 * gain.stderr for gain in found]}
figure.add_scatter(x=sigmas, y=[gain.value for gain in found], error_y=errors, mode="markers", name="measured")
figure.update_xaxes(type="log", title="standard deviation of a step, for each weight")
peak = max(gain.value for gain in found)
figure.update_yaxes(range=[-0.8 * peak, 2.2 * peak], title="gain of the best of 64 (nats)")
figure.update_layout(
    template="plotly_white", title="What random search gains is told by one gradient and the curvature"
)
