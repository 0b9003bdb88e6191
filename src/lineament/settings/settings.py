"""The typed configuration of a run. Every field states meaning, unit and default; nothing else configures a run.

Precedence: defaults < preset < --config < --set < flag. Defaults and presets were fixed by base accuracy and
recovery alone, before any capture was looked at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Literal, TypeVar

from lineament.errors import InputError, unknown_name

DamageKind = Literal["wrong_labels_replay", "wrong_labels", "uniform_labels", "ascent", "gaussian", "other_tasks"]
OptimizerName = Literal["sgd", "momentum", "adamw"]
DtypeName = Literal["float32", "bfloat16"]
T = TypeVar("T")


@dataclass(frozen=True)
class ModelSettings:
    """Which model. Width, layers, heads and length apply to the synthetic transformer only."""

    name: str = "synthetic"
    """`synthetic`, `smollm2-135m`, a local folder, a .gguf file or a hub name"""
    dtype: DtypeName = "float32"
    """type of a language model's weights; an adapter's factors are always float32 (lm with recovery.space lora only)"""
    adapter: str = ""
    """PEFT LoRA folder that is the operating point; lora.* is then read from its own configuration (lm only)"""
    adapter_start: str = ""
    """folder with the factors that `model.adapter` was trained from; without it theta_start is not known (lm only)"""
    width: int = 64
    """residual width of the synthetic transformer"""
    layers: int = 2
    """blocks of the synthetic transformer"""
    heads: int = 4
    """attention heads of the synthetic transformer"""
    length: int = 8
    """digits per example of the synthetic problem"""


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks exist and which one is damaged."""

    names: tuple[str, ...] = ()
    """tasks of the problem; empty means all of them"""
    targets: tuple[str, ...] = ()
    """tasks to damage and recover, one study each; empty means the problem's default"""
    data: str = ""
    """file (JSONL, JSON, CSV, Parquet, text), folder saved by datasets or hf:NAME[:CONFIG][:SPLIT] that becomes one
    more task, named like it (lm only)"""
    text_tokens: int = 64
    """tokens of the blocks that running text is cut into (lm only)"""
    evaluation_examples: int = 256
    """examples per task in each of the validation, evaluation and held-out sets"""


@dataclass(frozen=True)
class TrainingSettings:
    """Training of the synthetic base model, cosine schedule with warm-up, AdamW."""

    steps: int = 1500
    """optimizer steps"""
    lr: float = 4e-3
    """peak step size"""
    batch: int = 192
    """examples per step, spread evenly over the tasks"""


@dataclass(frozen=True)
class OperatingSettings:
    """Training of the measured parameters on all tasks, theta_start -> theta_star (AdamW).

    Not for all weights of a model that already knows the tasks, such as the synthetic one: it is at theta_star.
    """

    steps: int = 100
    """optimizer steps"""
    lr: float = 1e-3
    """step size"""
    batch: int = 48
    """examples per step, spread evenly over the tasks"""


@dataclass(frozen=True)
class LoraSettings:
    """The adapter."""

    rank: int = 8
    """rank r of every factor pair"""
    alpha: int = 16
    """scale times rank; dW = alpha / rank * B A"""
    targets: tuple[str, ...] = ()
    """names of the modules that get an adapter; empty means the usual ones of the architecture"""


@dataclass(frozen=True)
class DamageSettings:
    """How the target task is broken, theta_star -> theta_broken."""

    kind: DamageKind = "wrong_labels_replay"
    """wrong_labels_replay | wrong_labels | uniform_labels | ascent | gaussian | other_tasks"""
    steps: int = 60
    """optimizer steps (AdamW) of the kinds that train"""
    lr: float = 2e-3
    """step size of the kinds that train"""
    batch: int = 48
    """examples per step"""
    relative_sigma: float = 1.0
    """gaussian only: noise norm over the norm of theta_star - theta_start (LoRA) or a tenth of theta_star (full)"""


@dataclass(frozen=True)
class RecoverySettings:
    """How the target task is trained back, theta_broken -> theta_recovered."""

    space: Literal["lora", "full"] = "lora"
    """which parameters move and are measured: lora (factors A and B) or full (all weights)"""
    optimizer: OptimizerName = "adamw"
    """sgd | momentum | adamw"""
    lr: float = 5e-4
    """step size"""
    momentum: float = 0.9
    """momentum of `momentum`; beta1 of adamw"""
    beta2: float = 0.999
    """second-moment decay of adamw"""
    eps: float = 1e-8
    """denominator offset of adamw"""
    weight_decay: float = 0.0
    """decoupled weight decay of adamw, L2 of sgd and momentum"""
    steps: int = 150
    """most steps until recovery; twice as many are recorded"""
    batch: int = 32
    """examples per step, all of the target task"""
    threshold: float = 0.95
    """recovered at this fraction of theta_star's evaluation accuracy ..."""
    stay: int = 10
    """... held for this many steps"""


@dataclass(frozen=True)
class MeasureSettings:
    """Sizes of the measurements."""

    ranks: tuple[int, ...] = (1, 2, 5, 10, 20)
    """ranks at which captures are given"""
    headline_rank: int = 10
    """rank of the claims"""
    gradients: int = 64
    """gradients per spectrum and per static basis"""
    minibatch: int = 8
    """examples per minibatch gradient"""
    curvature_batch: int = 128
    """examples in the fixed batch of Hessian-vector products"""
    lanczos_steps: int = 40
    """Hessian-vector products for the top eigenvectors (at least the largest rank)"""
    task_vector_steps: int = 30
    """steps that train each task vector from theta_star"""
    random_draws: int = 20
    """draws of random update times"""
    inside_steps: int = 50
    """steps of training inside a subspace"""
    inside_batch: int = 32
    """examples per step of training inside a subspace"""
    inside_all: bool = False
    """train inside every basis and rank (full preset) instead of five bases at the headline rank"""
    drift_gradients: int = 32
    """minibatch gradients per half at each time of the drift measurement"""
    drift_rank: int = 5
    """rank of the drifting bases"""
    grid: bool = False
    """repeat captures over 3 step sizes x 3 damage kinds (full preset)"""


@dataclass(frozen=True)
class SearchSettings:
    """Sizes of the random-search measurement."""

    examples: int = 16
    """examples in the batch that perturbations are scored on; as many again are the fresh data"""
    draws: int = 2048
    """perturbations per space and sigma; at least twice the largest count"""
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    """numbers of draws N whose best gain is compared with its prediction"""
    headline_count: int = 64
    """the N of the claims"""
    costs: tuple[float, ...] = (1e-4, 0.01, 0.1, 0.25, 0.5, 1.0, 10.0)
    """sigmas, given as the share of the linear gain that curvature should cost there at the headline N"""
    spaces: tuple[str, ...] = ("full", "random", "static_broken", "prefix", "krylov")
    """where perturbations are drawn: full, or names of bases at the headline rank"""
    informed: tuple[str, ...] = (
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
    )
    """subspaces whose signal density is compared with their gain (at least 6 for the claim)"""
    density_draws: int = 512
    """perturbations per subspace and sigma of the density comparison and of the dimension comparison"""
    curvature_error: float = 0.05
    """Hutchinson probing of the whole space stops at this relative standard error of tr H"""
    most_probes: int = 600
    """and at this many probes at the latest"""
    lora_ranks: tuple[int, ...] = (1, 4, 16, 64)
    """adapter ranks at which the study is made again up to the damaged point, to vary n_params (LoRA only)"""
    widths: tuple[int, ...] = (32, 128)
    """residual widths at which it is made again (synthetic only)"""


@dataclass(frozen=True)
class SteeringSettings:
    """Sizes of the steering measurement."""

    examples: int = 256
    """training examples of both classes that the CAA vector is made from"""
    step_examples: int = 64
    """training prompts of the gradient step towards the positive label"""
    folds: int = 8
    """parts of the data that are left out in turn for standard errors; even, since halves are made of them"""
    random_directions: int = 24
    """random weight directions of the null"""
    shuffled_steps: int = 10
    """gradient steps on shuffled labels of the null"""
    sizes: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0, 3.0)
    """lengths of the step, as the shift that the Jacobian gives over the norm of the CAA vector"""
    doses: tuple[float, ...] = (-2.0, -1.0, -0.5, -0.2, -0.1, 0.1, 0.2, 0.5, 1.0, 2.0)
    """multiples of the CAA vector's norm that are added in the dose-response"""
    depths: tuple[float, ...] = (0.33, 0.5, 0.67)
    """layers, as shares of the depth, at which effects are compared besides the one of the best cosine"""
    kl: float = 0.05
    """price on neutral text at which vectors are compared, nats per token"""
    neutral_examples: int = 32
    """rows of neutral text"""
    effect_directions: int = 3
    """random weight directions whose effect is the null of the steering effect"""


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run's records."""

    problem: Literal["synthetic", "lm"] = "synthetic"
    """synthetic or lm"""
    preset: Literal["quick", "full"] = "full"
    """the preset these settings started from"""
    seed: int = 0
    """first seed; seeds run from `seed` to `seed + seeds - 1`"""
    seeds: int = 3
    """number of independent seeds; one seed gives no interval"""
    measure: tuple[str, ...] = ("gradient_rank", "basis_capture", "basis_drift")
    """measurements to make"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes cuda when there is one"""
    threads: int = 1
    """torch threads per job; part of what makes two runs equal bit for bit"""
    model: ModelSettings = field(default_factory=ModelSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    operating: OperatingSettings = field(default_factory=OperatingSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    damage: DamageSettings = field(default_factory=DamageSettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    measurement: MeasureSettings = field(default_factory=MeasureSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    steering: SteeringSettings = field(default_factory=SteeringSettings)

    def hash(self) -> str:
        """Identity of the configuration, without seeds and the choice of measurements (those extend a run)."""
        body = to_dict(self)
        for key in ("seed", "seeds", "measure"):
            del body[key]
        return digest(body)


def digest(body: Any) -> str:
    """Short stable hash of a JSON-able object."""
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=8).hexdigest()


def to_dict(settings: Any) -> dict[str, Any]:
    """Nested plain dict with lists for tuples, as written to config.toml."""
    return {item.name: plain(getattr(settings, item.name)) for item in dataclasses.fields(settings)}


def value_of(settings: Any, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getattr, key.split("."), settings)


@lru_cache  # a grid of thousands of cells asks again for each of them
def flat_keys(kind: type = Settings, prefix: str = "") -> Mapping[str, Any]:
    """Dotted key -> field type, for every leaf of the configuration."""
    hints = typing.get_type_hints(kind)
    keys: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        name = prefix + item.name
        if dataclasses.is_dataclass(hints[item.name]):
            keys.update(flat_keys(hints[item.name], name + "."))
        else:
            keys[name] = hints[item.name]
    return keys


def updated(settings: T, changes: Mapping[str, Any], source: str) -> T:
    """Settings with dotted keys replaced and checked; `source` is named in errors.

    Raises:
        InputError: an unknown key (with the nearest match) or a value of the wrong type.
    """
    types = flat_keys()
    for key, value in changes.items():
        if key not in types:
            raise unknown_name(f"key (from {source}; `lineament keys` lists all)", key, types)
        settings = _replace(settings, key.split("."), _coerced(key, value, types[key], source))
    return settings


def from_file(path: Path) -> dict[str, Any]:
    """Dotted keys of a TOML configuration file."""
    try:
        body = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"the configuration file {path} does not exist.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    return dict(flattened(body))


def flattened(body: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted (key, value) pairs of a nested mapping."""
    for key, value in body.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_assignment(text: str) -> tuple[str, str]:
    """`key=value` of --set."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text!r} has no '='. Write --set key=value, e.g. --set recovery.lr=1e-3.")
    return key.strip(), value.strip()


def plain(value: Any) -> Any:
    """A value as JSON and TOML have it: lists for tuples, nested settings as dicts."""
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _replace(node: Any, path: list[str], value: Any) -> Any:
    inner = value if len(path) == 1 else _replace(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: inner})


def _coerced(key: str, value: Any, kind: Any, source: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise unknown_name(f"value for {key} (from {source})", str(value), map(str, arguments))
        return value
    if origin is tuple:
        items = [part for part in value.split(",") if part] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise InputError(f"{key} = {value!r} (from {source}) is not a list; write one, or a,b,c with --set.")
        return tuple(_coerced(key, item, arguments[0], source) for item in items)
    try:
        return _scalar(value, kind)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{key} = {value!r} (from {source}) is not a valid {kind.__name__}.") from None


def _scalar(value: Any, kind: type) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise ValueError(value)
        return words[str(value).lower()]
    if kind is int and (isinstance(value, bool) or float(value) != int(float(value))):
        raise ValueError(value)
    if kind is int and isinstance(value, str) and not value.strip().lstrip("+-").isdigit():
        return int(float(value))  # 1e3; plain digits go on, since float would round a large seed
    return kind(value)
