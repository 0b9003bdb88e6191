"""The steering measurement on one task of a finished run, with another number of labelled examples.

    python benchmarks/step_against_caa.py RUN TASK [--examples 768]

RUN is a run of `lineament run lm --measure steering`; its operating point is used as it is. Printed: the best-layer
cosine with its jackknife error and the largest null draw, the effect at equal KL, and how well halves of the data
agree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lineament.measurements import steering
from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem
from lineament.settings.reading import updated
from lineament.study.case import Case
from lineament.study.study import operating_study


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("task")
    parser.add_argument("--examples", type=int, default=768)
    options = parser.parse_args()
    settings = updated(RunFolder(options.run).settings(), {"steering.examples": options.examples}, "--examples")
    torch.set_num_threads(settings.threads)
    problem = make_problem(settings, settings.seed)
    files = RunFolder(options.run).study_files(options.task, settings.seed)
    case = Case(problem, settings, options.task, settings.seed, files)
    record = steering.measure(operating_study(case))
    for quantity in ("best_layer_cosine", "effect_ratio", "split_half_agreement"):
        for f in record.select(quantity):
            print(quantity, dict(f.labels), f.value, f"stderr {f.stderr}", f"null {f.null}", f.reason or "")


if __name__ == "__main__":
    main()
