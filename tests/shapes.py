"""Shapes in signatures are checked while tests run: importing this module wraps the numeric packages imported after it.

Only arrays are checked. Everything else is mypy's business, and the package's own errors for wrong values must come
through: tests of an error about a shape use the fixture `own_shape_errors`, which shows what a user sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import beartype
from jaxtyping import install_import_hook

PACKAGES = ("bases", "parameters", "vectors", "activations", "population", "steering")
ARRAYS = ("Tensor, ", "ndarray, ")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let beartype check the annotations that name an array's axes, and leave out the others."""
    annotations = {
        name: hint for name, hint in function.__annotations__.items() if any(array in str(hint) for array in ARRAYS)
    }
    function.__annotations__ = annotations
    return beartype.beartype(function)


install_import_hook([f"lineament.{name}" for name in PACKAGES], "shapes.checked")
