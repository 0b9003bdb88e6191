"""Choose T and step size by accuracy and loss alone: how long recoveries take, seed by seed. No capture is looked at.

python benchmarks/recovery_pilot.py synthetic --seeds 5 --set recovery.lr=2e-4 --set recovery.steps=240
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from chosen_settings import add_settings, settings_of

from lineament.runs.folder import RunFolder
from lineament.runs.job import make_problem, validate
from lineament.study.case import Case
from lineament.study.horizon import why_not_a_task
from lineament.study.points import DAMAGED, TRAINED
from lineament.study.study import prepare_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_settings(parser)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    settings = settings_of(options)
    validate(settings)
    torch.set_num_threads(settings.threads)
    recovery = settings.recovery
    print(f"{options.problem}, {recovery.optimizer}, lr {recovery.lr:g}, T = {recovery.steps}")
    print()
    print("| task | seed | trained | damaged | at T | steps to recovery | T_loss | T_loss / T | a task? |")
    print("|---|---|---|---|---|---|---|---|---|")
    for target in settings.task.targets:
        for seed in range(settings.seed, settings.seed + options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                files = RunFolder(Path(folder)).study_files(target, seed)
                study = prepare_study(Case(make_problem(settings, seed), settings, target, seed, files))
            trained, damaged = (study.effects[point][target]["accuracy"] for point in (TRAINED, DAMAGED))
            curve, loss_step = study.curve, study.curve.loss_step
            share = "-" if loss_step is None else f"{loss_step / curve.n_steps:.2f}"
            at_end = curve.accuracy[curve.steps.index(curve.n_steps)]
            why = why_not_a_task(trained, damaged) or "yes"
            print(
                f"| {target} | {seed} | {trained:.2f} | {damaged:.2f} | {at_end:.2f} | {curve.steps_to_recovery} | "
                f"{loss_step} | {share} | {why} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
