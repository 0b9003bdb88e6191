"""`lineament model`: any model that Lineament can load, as a plain folder of safetensors."""

from __future__ import annotations

import shlex

from lineament.commands.model.flags import Model
from lineament.commands.terminal import console, say_next, steps_shown
from lineament.errors import InputError
from lineament.files.folders import require_writable
from lineament.problems.loading import load_model, write_model


def model(flags: Model) -> int:
    """Load the model and write it; return the exit code."""
    if flags.out.is_dir() and any(flags.out.iterdir()):
        raise InputError(f"{flags.out} is not empty. Choose another --out.")
    require_writable(flags.out)
    with steps_shown(flags.quiet, 1) as step:
        step(f"loading {flags.name}", 0)
        loaded, tokenizer = load_model(flags.name, flags.dtype)
        step(f"writing {flags.out}", 1)
        write_model(loaded, tokenizer, flags.out)
    n_parameters = sum(parameter.numel() for parameter in loaded.parameters())
    size = sum(file.stat().st_size for file in flags.out.iterdir())
    console.print(f"{flags.out}: {n_parameters:,} parameters in {flags.dtype}, {size / 2**20:.0f} MiB", soft_wrap=True)
    console.print(f'in Python: AutoModelForCausalLM.from_pretrained("{flags.out}")', soft_wrap=True)
    say_next(flags.quiet, [f"lineament run lm --model {shlex.quote(str(flags.out))} --preset quick --dry-run"])
    return 0
