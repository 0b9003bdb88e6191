"""Settings of everything that trains: `training.*`, `operating.*`, `damage.*` and `recovery.*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lineament.settings.fields import (
    DecayRate,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    setting,
)

DamageKind = Literal["wrong_labels_replay", "wrong_labels", "uniform_labels", "ascent", "gaussian", "other_tasks"]
OptimizerName = Literal["sgd", "momentum", "adamw"]


@dataclass(frozen=True)
class TrainingSettings:
    """Training of the synthetic base model, cosine schedule with warm-up, AdamW."""

    steps: PositiveInt = setting(1500, "Length of the training of the synthetic base model.", "optimizer steps")
    lr: PositiveFloat = setting(4e-3, "Peak step size of the base model's training, after the warm-up.")
    batch: PositiveInt = setting(
        192, "Batch size of the base model's training, spread evenly over the tasks.", "examples per step"
    )


@dataclass(frozen=True)
class OperatingSettings:
    """Training of the measured parameters on all tasks, theta_start -> theta_star (AdamW).

    Not for all weights of a model that already knows the tasks, such as the synthetic one: it is at theta_star.
    """

    steps: PositiveInt = setting(
        100, "Length of the training of the measured parameters on all tasks, up to theta_star.", "optimizer steps"
    )
    lr: PositiveFloat = setting(1e-3, "Step size of the training up to theta_star.")
    batch: PositiveInt = setting(
        48, "Batch size of the training up to theta_star, spread evenly over the tasks.", "examples per step"
    )


@dataclass(frozen=True)
class DamageSettings:
    """How the target task is damaged, theta_star -> theta_broken."""

    kind: DamageKind = setting("wrong_labels_replay", "How the target task is damaged.")
    steps: NonNegativeInt = setting(60, "Length of a damage that trains (all kinds but gaussian).", "optimizer steps")
    lr: PositiveFloat = setting(2e-3, "Step size of a damage that trains.")
    batch: PositiveInt = setting(
        48,
        "Batch size of a damage that trains; wrong_labels_replay gives half of it to the other tasks.",
        "examples per step",
    )
    relative_sigma: NonNegativeFloat = setting(
        1.0,
        "Norm of the noise of gaussian damage, relative to the norm of theta_star - theta_start (LoRA) or to a tenth "
        "of that of theta_star (full).",
    )


@dataclass(frozen=True)
class RecoverySettings:
    """How the target task is trained back, theta_broken -> theta_recovered."""

    space: Literal["lora", "full"] = setting(
        "lora", "Which parameters move and are measured: lora (the factors A and B) or full (all weights)."
    )
    optimizer: OptimizerName = setting("adamw", "Optimizer of the recovery.")
    lr: PositiveFloat = setting(2e-4, "Step size of the recovery's optimizer.")
    momentum: DecayRate = setting(0.9, "Momentum of the optimizer momentum, beta1 of adamw.")
    beta2: DecayRate = setting(0.999, "Decay of adamw's second moment.")
    eps: PositiveFloat = setting(1e-8, "Offset of adamw's denominator.")
    weight_decay: NonNegativeFloat = setting(0.0, "Decoupled weight decay of adamw, L2 penalty of sgd and momentum.")
    steps: PositiveInt = setting(
        280,
        "Steps T after which the recovery is judged, the same for every seed; 1.2 times as many are recorded.",
        "optimizer steps",
    )
    batch: PositiveInt = setting(32, "Batch size of the recovery, all of the target task.", "examples per step")
    threshold: Share = setting(
        0.95, "The target counts as recovered at this fraction of its evaluation accuracy at theta_star."
    )
