"""Settings `geometry.*`: sizes of the measurement of local geometry."""

from __future__ import annotations

from dataclasses import dataclass

from lineament.settings.fields import AtLeastTwo, NonEmpty, PositiveInt, setting


@dataclass(frozen=True)
class GeometrySettings:
    """Sizes of the measurement of local geometry."""

    examples: AtLeastTwo = setting(
        128, "Size of each fixed batch that gradients and Hessian-vector products of a task are taken on.", "examples"
    )
    held_out_examples: PositiveInt = setting(
        128, "Number of held-out examples on which changes of other tasks' losses are probed.", "examples"
    )
    float64: bool = setting(
        True, "Measure losses and gradients in float64; otherwise in the model's own type, with a higher noise floor."
    )
    rotation_lags: NonEmpty[PositiveInt] = setting(
        (1, 5, 20, 50, 100),
        "Lags of further training on one task at which the plane of its gradients is compared with the first.",
        "optimizer steps",
    )
    prompts: AtLeastTwo = setting(
        64, "Number of held-out prompts of each task on which shifts of activations are averaged.", "examples"
    )
