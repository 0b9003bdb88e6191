"""Settings `search.*`: sizes of the random-search measurement."""

from __future__ import annotations

from dataclasses import dataclass

from lineament.settings.fields import AtLeastTwo, NonEmpty, PositiveFloat, PositiveInt, Text, setting


@dataclass(frozen=True)
class SearchSettings:
    """Sizes of the random-search measurement."""

    examples: PositiveInt = setting(
        16, "Size of the batch that perturbations are scored on; as many again are the fresh data.", "examples"
    )
    draws: AtLeastTwo = setting(
        2048,
        "Perturbations per space and sigma, and per size of the parameter space, at least twice search.headline_count.",
        "perturbations",
    )
    theorem_draws: AtLeastTwo = setting(
        8192,
        "Perturbations of the whole space from which the theorem is judged, at least twice search.headline_count; at "
        "N = 64 the standard error of the ratio is about 1.8 over the square root of their number.",
        "perturbations",
    )
    counts: NonEmpty[PositiveInt] = setting(
        (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        "Numbers of draws N for which the gain of the best is compared with its prediction.",
        "perturbations",
    )
    headline_count: AtLeastTwo = setting(
        64, "Number of draws N at which claims are judged, one of search.counts.", "perturbations"
    )
    costs: NonEmpty[PositiveFloat] = setting(
        (1e-4, 0.01, 0.1, 0.25, 0.5, 1.0, 10.0),
        "Sigmas to search with, each given as the share of the linear gain that curvature should cost there at the "
        "headline N.",
        "shares of the linear gain",
    )
    spaces: NonEmpty[Text] = setting(
        ("full", "random", "static_broken", "prefix", "krylov"),
        "Where perturbations are drawn: full, or bases at the headline rank, by name.",
    )
    informed: NonEmpty[Text] = setting(
        (
            "static_start",
            "static_star",
            "static_broken",
            "static_all_tasks",
            "static_hessian_top",
            "task_vectors",
            "krylov",
            "control_preconditioned",
            "control_other_data",
            "prefix",
        ),
        "Subspaces whose signal density is compared with their gain; the claim needs at least 6.",
    )
    density_draws: AtLeastTwo = setting(
        512,
        "Perturbations per subspace and sigma in the comparison of subspaces, at least twice search.headline_count.",
        "perturbations",
    )
    curvature_error: PositiveFloat = setting(
        0.05, "Relative standard error of tr H at which Hutchinson probing of the whole space stops."
    )
    most_probes: AtLeastTwo = setting(600, "Maximum number of Hutchinson probes of the whole space.", "probes")
    lora_ranks: tuple[PositiveInt, ...] = setting(
        (1, 4, 16, 64),
        "Adapter ranks at which the study is made again up to the damaged point, to vary n_params (LoRA only).",
        "directions",
    )
    widths: tuple[PositiveInt, ...] = setting(
        (32, 128),
        "Residual widths at which the study is made again up to the damaged point, to vary n_params (synthetic only).",
        "features",
    )
