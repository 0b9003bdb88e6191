"""Flags of `lineament compose`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lineament.command_line.markers import Positional, Said
from lineament.errors import InputError
from lineament.settings.fields import AtLeastTwo, PositiveInt, Seed, Threads
from lineament.settings.model import DeviceName

# As `lineament.merging.options` has them, which needs torch.
SCALES = "0.25,0.5,0.75,1,1.25,1.5"
LARGEST_SCALE = 100.0
MOST_SCALES = 20


@dataclass(frozen=True, kw_only=True)
class Compose:
    """Predict and measure how two adapters interfere when they are added, and write the best sum as an adapter.

    Gradients and curvature at the base predict the interference before any sum is tried; then losses are measured over
    a grid of scales, on the data of each adapter.
    """

    first: Positional[Path]
    """PEFT folder of adapter A"""
    second: Positional[Path]
    """PEFT folder of adapter B, of the same base"""
    data: Annotated[tuple[Path, ...], Said(value="FILE")]
    """examples of what an adapter was trained for, repeatable: give it twice, A's first"""
    model: str = ""
    """the base: smollm2-135m, a local folder, a .gguf file or a hub name; default the one that the adapters name"""
    out: Path = Path("composition")
    """folder of the report, the records and the merged adapter"""
    scales: Annotated[str, Said(value="LIST")] = SCALES
    """scales of the grid, comma separated; 0 and 1 are added"""
    at: Annotated[str, Said(value="S,T")] = ""
    """scales of the merged adapter, such as 1,0.5; default the pair that validation examples choose"""
    examples: PositiveInt = 64
    """examples of each file that are used, drawn at random; half of them choose scales, the others judge"""
    draws: PositiveInt = 8
    """adapters of the null: B's singular values with random singular vectors"""
    order_examples: AtLeastTwo = 8
    """examples in each of the eight batches between which order is judged; a quarter of the examples at most"""
    predict_only: bool = False
    """foretell from gradients and curvature, and stop before any sum is tried; no adapter is written"""
    no_order: bool = False
    """leave out whether the order of training on the two data sets matters, which takes most memory"""
    seed: Seed = 0
    """seed of the draws of examples, halves and null"""
    threads: Threads = 2
    """torch threads"""
    device: DeviceName = "auto"
    """auto, cpu or cuda"""
    quiet: bool = False
    """show no progress"""
    debug: bool = False
    """show tracebacks"""

    def scale_values(self) -> tuple[float, ...]:
        """Parse --scales."""
        found = _numbers("--scales", self.scales, "numbers above 0, comma separated, such as 0.5,1")
        if not found or len(found) > MOST_SCALES or not all(0 <= scale <= LARGEST_SCALE for scale in found):
            raise InputError(
                f"--scales {self.scales!r}: give 1 to {MOST_SCALES} numbers from 0 to {LARGEST_SCALE:g}, such as 0.5,1."
            )
        positive = tuple(scale for scale in found if scale > 0)
        if not positive:
            raise InputError("--scales has nothing above 0; give numbers such as 0.5,1.")
        return positive

    def merged_at(self) -> tuple[float, float] | None:
        """Parse --at; None without the flag."""
        if not self.at:
            return None
        found = _numbers("--at", self.at, "two numbers, such as 1,0.5")
        if len(found) != 2 or not all(abs(scale) <= LARGEST_SCALE for scale in found):
            raise InputError(f"--at {self.at!r}: give two numbers, at most {LARGEST_SCALE:g} in size, such as 1,0.5.")
        return found[0], found[1]

    def require_usable(self) -> None:
        """Refuse what can be known to be wrong before a model is loaded.

        Raises:
            InputError: names the flag, what was given and what is allowed.
        """
        if len(self.data) != 2:
            raise InputError(
                f"--data was given {len(self.data)} times; give it twice: --data A.jsonl for the first adapter and "
                "--data B.jsonl for the second."
            )
        self.scale_values()
        self.merged_at()
        if self.predict_only and self.at:
            raise InputError("--at names the sum that is written, and --predict-only writes none; leave one out.")


def _numbers(flag: str, text: str, wanted: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{flag} {text!r}: give {wanted}.") from None
    if not all(math.isfinite(number) for number in found):
        raise InputError(f"{flag} {text!r}: give finite {wanted}.")
    return found
