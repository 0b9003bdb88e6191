# %% [markdown]
# # A steering vector from a few sentences, and what it costs
#
# The mean activation of happy sentences less that of sad ones is a direction. Added to one layer of a language model,
# it makes happy sentences likelier than sad ones; a single text need not show it. What it does to everything else is
# the KL divergence from the unsteered model on neutral text. Random directions of the same length are the control:
# they cost far more and move the mood either way.

# %%
import json
from pathlib import Path

import plotly.graph_objects as go
import torch

import lineament
from lineament.problems.loading import load_model

torch.manual_seed(0)
torch.set_num_threads(1)
LAYER = 13  # counted from 1: the output of block 13 of 30
model, tokenizer = load_model("smollm2-135m")
file = Path(__file__).with_name("moods.jsonl") if "__file__" in globals() else Path("examples/moods.jsonl")
rows = [json.loads(line) for line in file.read_text().splitlines()]
happy, sad = ([row["statement"] for row in rows if row["label"] is label] for label in (True, False))
HELD_OUT = 6  # of each kind; the vector is made of the others

# %% [markdown]
# Mean activations over the tokens of each sentence, and how well two halves of the sentences agree. A vector whose
# halves do not agree is noise. (`lineament steer make` does this from the file, with a table of all layers.)


# %%
def activations(sentences: list[str]) -> torch.Tensor:
    found = []
    for sentence in sentences:
        with torch.no_grad():
            states = model(**tokenizer(sentence, return_tensors="pt"), output_hidden_states=True).hidden_states
        found.append(states[LAYER][0].mean(dim=0))
    return torch.stack(found)


of_happy, of_sad = activations(happy[HELD_OUT:]), activations(sad[HELD_OUT:])
joy = of_happy.mean(dim=0) - of_sad.mean(dim=0)
halves = [of_happy[half::2].mean(dim=0) - of_sad[half::2].mean(dim=0) for half in (0, 1)]
agreement = torch.cosine_similarity(*halves, dim=0)
print(f"{len(of_happy)} happy and {len(of_sad)} sad sentences; two halves agree to a cosine of {agreement:.2f}")

# %% [markdown]
# `steered` adds the vector inside a block of code, and takes every hook away afterwards.

# %%
directions = {"joy": joy}
for number in (1, 2):
    noise = torch.randn(len(joy))
    directions[f"random {number}"] = noise * joy.norm() / noise.norm()
vectors = {name: lineament.SteeringVector({LAYER: direction}) for name, direction in directions.items()}
prompt = tokenizer("After the funeral, we", return_tensors="pt")
for coefficient in (0.0, 1.5, 2.5):
    with torch.no_grad(), lineament.steered(model, vectors["joy"], coefficient):
        written = model.generate(**prompt, max_new_tokens=14, do_sample=False, pad_token_id=0)
    print(f"coefficient {coefficient:3}: {tokenizer.decode(written[0], skip_special_tokens=True)}")

# %% [markdown]
# Effect and cost by coefficient: how much likelier held-out happy sentences become than held-out sad ones, and the KL
# on sentences about neither.

# %%
NEUTRAL = (
    "The train to the coast leaves at nine from platform four.",
    "Water boils at a hundred degrees at sea level.",
    "The office is on the second floor, next to the stairs.",
)


def log_probabilities(text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(dim=-1)


def per_token(sentences: list[str]) -> float:
    """Mean log probability of a token."""
    found = []
    for sentence in sentences:
        tokens = torch.tensor(tokenizer(sentence)["input_ids"])
        found.append(log_probabilities(sentence)[:-1].gather(1, tokens[1:, None]).mean())
    return float(sum(found) / len(found))


def odds() -> float:
    return per_token(happy[:HELD_OUT]) - per_token(sad[:HELD_OUT])


coefficients = (-2.0, -1.0, 0.0, 1.0, 2.0)
plain, before = odds(), [log_probabilities(text) for text in NEUTRAL]
effect: dict[str, list[float]] = {name: [] for name in vectors}
cost: dict[str, list[float]] = {name: [] for name in vectors}
print("vector     coefficient   effect (nats a token)   KL (nats a token)")
for name, vector in vectors.items():
    for coefficient in coefficients:
        with lineament.steered(model, vector, coefficient):
            after = [log_probabilities(text) for text in NEUTRAL]
            effect[name].append(odds() - plain)
        kl = [(b.exp() * (b - a)).sum(dim=-1).mean() for b, a in zip(before, after, strict=True)]
        cost[name].append(float(sum(kl) / len(kl)))
        print(f"{name:10} {coefficient:11} {effect[name][-1]:23.2f} {cost[name][-1]:20.3f}")
assert effect["joy"][2] == cost["joy"][2] == 0  # to the bit
assert effect["joy"][3] > 0 > effect["joy"][1]

# %%
figure = go.Figure()
for name in vectors:
    text = [f"{coefficient:+g}" for coefficient in coefficients]
    figure.add_scatter(
        x=cost[name], y=effect[name], text=text, name=name, mode="lines+markers+text", textposition="top center"
    )
figure.update_xaxes(title="KL on neutral text (nats a token)")
figure.update_yaxes(title="happy against sad sentences (nats a token)")
figure.update_layout(template="plotly_white", title="What the vector does, and what it costs")
