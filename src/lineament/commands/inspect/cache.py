"""`lineament cache`: trained base models, and models of GGUF files, that are kept for later runs."""

from __future__ import annotations

from lineament.commands.inspect.flags import Cache
from lineament.problems.kept_models import delete_kept, kept_models
from lineament.problems.synthetic import cache_folder
from lineament.records import delete_leftovers


def cache(flags: Cache) -> int:
    """List or delete cached models."""
    clear = flags.action == "clear"
    files = sorted(cache_folder().glob("*.safetensors"))
    for file in files:
        print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB")
        if clear:
            file.unlink()
    folders = kept_models()
    for folder in folders:
        print(f"{folder}  {sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.1f} MiB")
        if clear:
            delete_kept(folder)
    if clear:
        delete_leftovers(cache_folder())
    done = " deleted" if clear else ""
    print(f"{len(files)} cached base model(s){done}")
    print(f"{len(folders)} model(s) of GGUF files{done}")
    return 0
