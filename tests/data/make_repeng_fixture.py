"""Reads a control vector of ours with repeng and writes it again with repeng; run by an environment of its own.

repeng needs numpy 1, so it cannot be installed beside Lineament's other tools. In another environment:

    pip install repeng==0.4.0
    python tests/data/make_repeng_fixture.py tests/data/control_vector.gguf tests/data/control_vector_repeng.gguf

The first file is the vector of tests/test_steering_repeng.py, which says how to write it. The second holds what repeng
understood of it.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

from repeng import ControlVector


def main() -> None:
    ours, theirs = sys.argv[1:]
    found = ControlVector.import_gguf(ours)
    found.export_gguf(theirs)
    print(f"repeng {version('repeng')}: {found.model_type}, blocks {list(found.directions)}")


if __name__ == "__main__":
    main()
