"""Lineament measures local linear structure in neural networks: which directions are real, and how long they last.

Public names, in the order data flow: problem and parameter space, vectors, bases, measurements, claims. Names are
imported on first use, so that `import lineament` and `lineament --help` are quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lineament.activations.capture import Place as Place
    from lineament.activations.capture import problem_reader as problem_reader
    from lineament.activations.capture import read_rows as read_rows
    from lineament.api import Results as Results
    from lineament.api import measure as measure
    from lineament.bases import Basis as Basis
    from lineament.bases import capture as capture
    from lineament.bases import from_vectors as from_vectors
    from lineament.bases import krylov as krylov
    from lineament.bases import overlap as overlap
    from lineament.bases import principal_angles as principal_angles
    from lineament.bases import project as project
    from lineament.bases import random_basis as random_basis
    from lineament.bases import top_directions as top_directions
    from lineament.bases import top_eigenvectors as top_eigenvectors
    from lineament.claims.advice import advise as advise
    from lineament.claims.registry import evaluate as evaluate_claims  # noqa: F401
    from lineament.claims.verdict import Claim as Claim
    from lineament.errors import InputError as InputError
    from lineament.errors import LineamentError as LineamentError
    from lineament.errors import SpaceMismatchError as SpaceMismatchError
    from lineament.integrations.checkpoints import record_checkpoints as record_checkpoints
    from lineament.integrations.trainer_callback import LineamentCallback as LineamentCallback
    from lineament.measurements.recording.analysis import analyze as analyze_recording  # noqa: F401
    from lineament.measurements.recording.options import AnalysisOptions as AnalysisOptions
    from lineament.parameters import ParameterSpace as ParameterSpace
    from lineament.parameters import Space as Space
    from lineament.parameters import Vectors as Vectors
    from lineament.population.best_of_n import mean_best as mean_best
    from lineament.population.members import BasisMembers as BasisMembers
    from lineament.population.members import GaussianMembers as GaussianMembers
    from lineament.population.members import LowRankMembers as LowRankMembers
    from lineament.population.population import Population as Population
    from lineament.population.population import Scores as Scores
    from lineament.population.region import Region as Region
    from lineament.problems.in_memory import InMemoryProblem as InMemoryProblem
    from lineament.problems.problem import Batch as Batch
    from lineament.problems.problem import Problem as Problem
    from lineament.problems.stored_adapters import StoredAdapter as StoredAdapter
    from lineament.problems.stored_adapters import read_adapter as read_adapter
    from lineament.records import Quantity as Quantity
    from lineament.records import Record as Record
    from lineament.records import load_records as load_records
    from lineament.steering.formats import from_layer_activations as from_layer_activations
    from lineament.steering.formats import read_vector as read_vector
    from lineament.steering.steered import steered as steered
    from lineament.steering.vector import SteeringVector as SteeringVector
    from lineament.steering.vector import save_vector as save_vector
    from lineament.steering.weight_step import finite_shift as finite_shift
    from lineament.steering.weight_step import jacobian_shift as jacobian_shift
    from lineament.steering.weight_step import weight_edit as weight_edit
    from lineament.streams import Streams as Streams
    from lineament.study.study import Study as Study
    from lineament.vectors.adapter_algebra import adapter_cosine as adapter_cosine
    from lineament.vectors.adapter_algebra import adapter_inner as adapter_inner
    from lineament.vectors.adapter_algebra import adapter_norm as adapter_norm
    from lineament.vectors.adapter_algebra import adapter_singular_values as adapter_singular_values
    from lineament.vectors.adapter_algebra import combine_adapters as combine_adapters
    from lineament.vectors.adapter_algebra import save_stored_adapter as save_stored_adapter
    from lineament.vectors.adapter_algebra import scale_adapter as scale_adapter
    from lineament.vectors.adapter_algebra import subtract_adapters as subtract_adapters
    from lineament.vectors.curvature import estimate_curvature as estimate_curvature
    from lineament.vectors.effective import effective_gram as effective_gram
    from lineament.vectors.effective import effective_spectrum as effective_spectrum
    from lineament.vectors.gradients import gradient_gram as gradient_gram
    from lineament.vectors.gradients import group_gradients as group_gradients
    from lineament.vectors.hessian import HessianOperator as HessianOperator
    from lineament.vectors.recording.reader import Trajectory as Trajectory
    from lineament.vectors.recording.sketch import Sketch as Sketch
    from lineament.vectors.recording.sketch import capture_error as capture_error
    from lineament.vectors.recording.writer import Recorder as Recorder
    from lineament.vectors.trajectory_gram import TrajectoryGram as TrajectoryGram

# Public name -> (module, name there), in pipeline order.
PUBLIC: dict[str, tuple[str, str]] = {
    "measure": ("api", "measure"),
    "Results": ("api", "Results"),
    "Streams": ("streams", "Streams"),
    "ParameterSpace": ("parameters", "ParameterSpace"),
    "Space": ("parameters", "Space"),
    "Vectors": ("parameters", "Vectors"),
    "Problem": ("problems.problem", "Problem"),
    "Batch": ("problems.problem", "Batch"),
    "InMemoryProblem": ("problems.in_memory", "InMemoryProblem"),
    "Place": ("activations.capture", "Place"),
    "problem_reader": ("activations.capture", "problem_reader"),
    "read_rows": ("activations.capture", "read_rows"),
    "group_gradients": ("vectors.gradients", "group_gradients"),
    "gradient_gram": ("vectors.gradients", "gradient_gram"),
    "HessianOperator": ("vectors.hessian", "HessianOperator"),
    "estimate_curvature": ("vectors.curvature", "estimate_curvature"),
    "Recorder": ("vectors.recording.writer", "Recorder"),
    "Trajectory": ("vectors.recording.reader", "Trajectory"),
    "Sketch": ("vectors.recording.sketch", "Sketch"),
    "capture_error": ("vectors.recording.sketch", "capture_error"),
    "TrajectoryGram": ("vectors.trajectory_gram", "TrajectoryGram"),
    "effective_gram": ("vectors.effective", "effective_gram"),
    "effective_spectrum": ("vectors.effective", "effective_spectrum"),
    "LineamentCallback": ("integrations.trainer_callback", "LineamentCallback"),
    "record_checkpoints": ("integrations.checkpoints", "record_checkpoints"),
    "AnalysisOptions": ("measurements.recording.options", "AnalysisOptions"),
    "analyze_recording": ("measurements.recording.analysis", "analyze"),
    "advise": ("claims.advice", "advise"),
    "StoredAdapter": ("problems.stored_adapters", "StoredAdapter"),
    "read_adapter": ("problems.stored_adapters", "read_adapter"),
    "save_stored_adapter": ("vectors.adapter_algebra", "save_stored_adapter"),
    "combine_adapters": ("vectors.adapter_algebra", "combine_adapters"),
    "scale_adapter": ("vectors.adapter_algebra", "scale_adapter"),
    "subtract_adapters": ("vectors.adapter_algebra", "subtract_adapters"),
    "adapter_inner": ("vectors.adapter_algebra", "adapter_inner"),
    "adapter_norm": ("vectors.adapter_algebra", "adapter_norm"),
    "adapter_cosine": ("vectors.adapter_algebra", "adapter_cosine"),
    "adapter_singular_values": ("vectors.adapter_algebra", "adapter_singular_values"),
    "Basis": ("bases", "Basis"),
    "from_vectors": ("bases", "from_vectors"),
    "top_directions": ("bases", "top_directions"),
    "top_eigenvectors": ("bases", "top_eigenvectors"),
    "krylov": ("bases", "krylov"),
    "random_basis": ("bases", "random_basis"),
    "project": ("bases", "project"),
    "capture": ("bases", "capture"),
    "overlap": ("bases", "overlap"),
    "principal_angles": ("bases", "principal_angles"),
    "GaussianMembers": ("population.members", "GaussianMembers"),
    "BasisMembers": ("population.members", "BasisMembers"),
    "LowRankMembers": ("population.members", "LowRankMembers"),
    "Population": ("population.population", "Population"),
    "Scores": ("population.population", "Scores"),
    "Region": ("population.region", "Region"),
    "SteeringVector": ("steering.vector", "SteeringVector"),
    "save_vector": ("steering.vector", "save_vector"),
    "read_vector": ("steering.formats", "read_vector"),
    "from_layer_activations": ("steering.formats", "from_layer_activations"),
    "jacobian_shift": ("steering.weight_step", "jacobian_shift"),
    "finite_shift": ("steering.weight_step", "finite_shift"),
    "weight_edit": ("steering.weight_step", "weight_edit"),
    "steered": ("steering.steered", "steered"),
    "mean_best": ("population.best_of_n", "mean_best"),
    "Study": ("study.study", "Study"),
    "Quantity": ("records", "Quantity"),
    "Record": ("records", "Record"),
    "load_records": ("records", "load_records"),
    "Claim": ("claims.verdict", "Claim"),
    "evaluate_claims": ("claims.registry", "evaluate"),
    "LineamentError": ("errors", "LineamentError"),
    "InputError": ("errors", "InputError"),
    "SpaceMismatchError": ("errors", "SpaceMismatchError"),
}
__all__ = [*PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'lineament' has no attribute {name!r}")
    module, attribute = PUBLIC[name]
    return getattr(importlib.import_module(f"lineament.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
