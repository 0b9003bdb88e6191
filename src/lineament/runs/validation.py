"""What one settings key demands of another, and the check of all values before a model is made or a file written.

Types and names of choices are checked where settings are read; the range of each key stands at its field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lineament.errors import InputError, unknown_name
from lineament.measurements import random_search, steering
from lineament.settings.keys import require_in_range
from lineament.settings.settings import Settings
from lineament.settings.words import value_words

# Inputs of so many digits never run out.
MANY_DIGITS = 12


def require_allowed(settings: Settings, n_tasks: int) -> None:
    """Every value in its range, then what the keys demand of each other, on a problem of `n_tasks` tasks.

    Raises:
        InputError: names the key, its value and what is allowed.
    """
    searching, steered = (name in settings.measure for name in (random_search.NAME, steering.NAME))
    require_in_range(settings, unused_groups=[*([] if searching else ["search"]), *([] if steered else ["steering"])])
    _require_all(_agreements(settings, n_tasks))
    _require_all(_adapter_agreements(settings))
    if steered:
        _require_all(_steering_agreements(settings))
    if searching:
        _require_spaces(settings)
        _require_all(_search_agreements(settings))


def require_synthetic(settings: Settings, modules: Collection[str]) -> None:
    """What the embedded transformer demands besides; it has linear modules of these names.

    Raises:
        InputError: names the key, its value and what is allowed.
    """
    for name in settings.lora.targets:
        if name not in modules:
            raise unknown_name("module", name, modules, "lora.targets")
    _require_all(_synthetic_agreements(settings))


def _require_all(conditions: Iterator[tuple[bool, str]]) -> None:
    for holds, message in conditions:
        if not holds:
            raise InputError(message)


def _agreements(s: Settings, n_tasks: int) -> Iterator[tuple[bool, str]]:
    """(whether it holds, what to say if it does not), in this and the functions below."""
    m, steps = s.measurement, s.recovery.steps
    yield len(s.task.targets) > 0, "task.targets is empty; it must name at least one task to damage."
    yield (
        max(m.ranks) <= steps,
        f"rank {max(m.ranks)} is above the number of recovery steps, {steps}: a prefix of that many updates does not "
        "exist. Lower measurement.ranks or raise recovery.steps.",
    )
    yield (
        m.headline_rank in m.ranks,
        f"measurement.headline_rank is {m.headline_rank}; it must be among measurement.ranks, {value_words(m.ranks)}.",
    )
    yield (
        m.gradients >= n_tasks,
        f"measurement.gradients is {m.gradients}; it must be at least the number of tasks, {n_tasks}, so that each "
        "has a part in the plane of all tasks.",
    )
    yield (
        m.drift_rank <= m.drift_gradients,
        f"measurement.drift_rank is {m.drift_rank}; it must be at most measurement.drift_gradients, "
        f"{m.drift_gradients}: so many gradients span no more directions.",
    )
    yield (
        s.damage.kind != "other_tasks" or n_tasks > 1,
        "damage.kind is other_tasks; that needs a task besides the target. Add one, or choose another kind.",
    )
    yield (
        s.damage.batch > 1 or not (s.damage.kind == "wrong_labels_replay" or m.grid),
        f"damage.batch is {s.damage.batch}; it must be at least 2 for wrong_labels_replay, which gives half of each "
        "batch to the other tasks.",
    )


def _adapter_agreements(s: Settings) -> Iterator[tuple[bool, str]]:
    """What a given adapter and the type of the weights demand."""
    lora, given = s.recovery.space == "lora", bool(s.model.adapter)
    yield (
        s.model.dtype == "float32" or lora,
        f"model.dtype is {s.model.dtype} and recovery.space is full; weights of that type swallow updates below about "
        "a hundredth of their size. Take float32, or recovery.space lora, whose factors are float32.",
    )
    yield (
        lora or not given,
        "model.adapter is given and recovery.space is full; with an adapter its factors are what moves and is "
        "measured. Take recovery.space lora.",
    )
    yield (
        given or not s.model.adapter_start,
        "model.adapter_start is given without model.adapter, the adapter that was trained from it.",
    )
    yield (
        s.damage.kind != "gaussian" or not given or bool(s.model.adapter_start),
        "damage.kind is gaussian, whose size is a share of theta_star - theta_start; the start of model.adapter is not "
        "known. Give model.adapter_start, or choose another kind.",
    )
    yield (
        s.problem == "lm" or not (given or s.model.dtype != "float32"),
        "model.adapter and model.dtype are for `lineament run lm`.",
    )


def _search_agreements(s: Settings) -> Iterator[tuple[bool, str]]:
    search, n = s.search, s.search.headline_count
    yield (
        n in search.counts,
        f"search.headline_count is {n}; it must be among search.counts, {value_words(search.counts)}.",
    )
    for key, draws in (("search.draws", search.draws), ("search.density_draws", search.density_draws)):
        yield (
            draws >= 2 * n,
            f"{key} is {draws}; it must be at least 2 * search.headline_count = {2 * n}, or the best of {n} has no "
            "standard error.",
        )


def _steering_agreements(s: Settings) -> Iterator[tuple[bool, str]]:
    st, n = s.steering, s.task.evaluation_examples
    yield (
        st.examples >= 2 * st.folds,
        f"steering.examples is {st.examples}; it must be at least 2 * steering.folds = {2 * st.folds}, so that each "
        "fold holds both classes.",
    )
    yield (
        n >= 2 * st.folds,
        f"task.evaluation_examples is {n}; it must be at least 2 * steering.folds = {2 * st.folds} held-out prompts.",
    )
    yield (
        st.effect_directions <= st.random_directions,
        f"steering.effect_directions is {st.effect_directions}; it must be at most steering.random_directions, "
        f"{st.random_directions}.",
    )


def _require_spaces(s: Settings) -> None:
    spaces = random_search.known_spaces()
    subspaces = [name for name in spaces if name != "full"]
    for key, names, known in (("spaces", s.search.spaces, spaces), ("informed", s.search.informed, subspaces)):
        for name in names:
            if name not in known:
                raise unknown_name("space", name, known, f"search.{key}")


def _synthetic_agreements(s: Settings) -> Iterator[tuple[bool, str]]:
    yield (
        s.model.name == "synthetic",
        f"model.name is {s.model.name}; the synthetic problem makes its own model, set by model.width, model.layers "
        "and model.heads. Use `lineament run lm` for another.",
    )
    widths = s.search.widths if random_search.NAME in s.measure else ()
    for key, width in (("model.width", s.model.width), *(("search.widths", width) for width in widths)):
        yield (
            width % s.model.heads == 0,
            f"{key} is {width}; it must be a multiple of model.heads, {s.model.heads}.",
        )
    n, length = s.task.evaluation_examples, s.model.length
    yield (
        # three sets are cut from the different inputs among 5 n draws
        length >= MANY_DIGITS or 5 * n <= 10**length,
        f"task.evaluation_examples is {n}; it must be at most a fifth of the 10^{length} inputs that model.length "
        f"{length} allows. Raise model.length.",
    )
