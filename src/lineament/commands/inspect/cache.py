"""`lineament cache`: the trained base models that are kept for later runs."""

from __future__ import annotations

from lineament.commands.inspect.flags import Cache
from lineament.problems.synthetic import cache_folder
from lineament.records import delete_leftovers


def cache(flags: Cache) -> int:
    """List or delete cached base models."""
    clear = flags.action == "clear"
    files = sorted(cache_folder().glob("*.safetensors"))
    for file in files:
        print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB")
        if clear:
            file.unlink()
    if clear:
        delete_leftovers(cache_folder())
    print(f"{len(files)} cached base model(s) {'deleted' if clear else ''}".rstrip())
    return 0
