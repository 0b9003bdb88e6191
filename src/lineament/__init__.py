"""Lineament measures local linear structure in neural networks: which directions are real, and how long they last.

The public names stand in `__init__.pyi`, each with its module, and are imported on first use, so that
`import lineament` and `lineament --help` are quick.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
