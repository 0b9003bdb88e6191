"""Settings `steering.*`: sizes of the steering measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, MultipleOf

from lineament.settings.fields import AnyFloat, AtLeastTwo, NonEmpty, PositiveFloat, PositiveInt, Share, setting


@dataclass(frozen=True)
class SteeringSettings:
    """Sizes of the steering measurement."""

    examples: Annotated[int, Ge(8)] = setting(
        256, "Training examples of both classes together that the CAA vector is made from.", "examples"
    )
    step_examples: AtLeastTwo = setting(
        64, "Training prompts of the gradient step towards the positive label.", "examples"
    )
    # even, since halves are made of the folds
    folds: Annotated[int, Ge(2), MultipleOf(2)] = setting(
        8, "Number of parts of the data that are left out in turn for standard errors.", "folds"
    )
    random_directions: PositiveInt = setting(
        24, "Number of random weight directions that cosines are compared with.", "directions"
    )
    shuffled_steps: PositiveInt = setting(
        10, "Number of gradient steps on shuffled labels that cosines are compared with.", "steps"
    )
    sizes: NonEmpty[PositiveFloat] = setting(
        (0.01, 0.1, 0.3, 1.0, 3.0),
        "Lengths of the weight step, each given by the activation shift that the Jacobian predicts for it.",
        "norms of the CAA vector",
    )
    doses: NonEmpty[AnyFloat] = setting(
        (-2.0, -1.0, -0.5, -0.2, -0.1, 0.1, 0.2, 0.5, 1.0, 2.0),
        "How much of the CAA vector is added in the dose-response.",
        "norms of the CAA vector",
    )
    depths: NonEmpty[Share] = setting(
        (0.33, 0.5, 0.67),
        "Layers at which effects are compared, besides the one with the largest cosine.",
        "shares of the depth",
    )
    kl: PositiveFloat = setting(0.05, "KL divergence on neutral text at which vectors are compared.", "nats per token")
    neutral_examples: PositiveInt = setting(32, "Number of rows of neutral text on which KL is measured.", "rows")
    effect_directions: PositiveInt = setting(
        3, "Number of random weight directions whose effect the steering effect is compared with.", "directions"
    )
