"""`lineament cache`: trained base models and plain models of GGUF files, which are kept for later runs."""

from __future__ import annotations

from lineament.commands.inspect.flags import Cache
from lineament.problems.base_cache import cached_bases, clear_cache, require_cache
from lineament.problems.kept_models import delete_kept, kept_models


def cache(flags: Cache) -> int:
    """List or delete cached models; return the exit code."""
    clear = flags.action == "clear"
    if clear:
        require_cache()
    files, folders = cached_bases(), kept_models()
    for file in files:
        print(f"{file}  {file.stat().st_size / 2**20:.1f} MiB")
    for folder in folders:
        print(f"{folder}  {sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.1f} MiB")
    if clear:
        for folder in folders:
            delete_kept(folder)
        clear_cache()
    done = " deleted" if clear else ""
    print(f"{len(files)} cached base model(s){done}")
    print(f"{len(folders)} model(s) of GGUF files{done}")
    return 0
