"""Weight steps and steering vectors: where they move activations, and what that does."""

from __future__ import annotations

from lineament.report.sections.section import Opening, Section, each
from lineament.report.sections.steering.cosine import cosine_picture
from lineament.report.sections.steering.dose import dose_picture
from lineament.report.sections.steering.draws import draws_picture
from lineament.report.sections.steering.equal_kl import effect_picture
from lineament.report.sections.steering.linearity import linearity_picture
from lineament.report.sections.steering.tables import (
    accuracy_table,
    agreement_table,
    calibrated_table,
    collateral_table,
)

NULLS = {
    "step_cosine": "largest |cosine| at this layer among random weight directions and steps on shuffled labels",
    "best_layer_cosine": "largest best-layer |cosine| among the same draws, each at its own best layer",
    "null_best_layer_cosine": "is itself the null, one value per draw",
    "effect_ratio": "mean size of the same ratio for shifts by random weight directions",
}
OPENING = Opening(
    "Task",
    "weight steps and steering vectors of",
    "A trained model was neither damaged nor recovered here. This page shows what a step in its weights does to its "
    "activations, whether that is the direction that labelled examples give, and what either does to its answers.",
)
SECTION = Section(
    "steering",
    "Weight steps and steering vectors",
    "whether one gradient step moves activations where a steering vector does, and steers as it does",
    pictures=each(cosine_picture, draws_picture, linearity_picture, dose_picture, effect_picture),
    tables=each(calibrated_table, accuracy_table, collateral_table, agreement_table),
    nulls=NULLS,
    opening=OPENING,
)
