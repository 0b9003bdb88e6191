"""What jobs report while they run, in words that who shows it can import without what runs them."""

from __future__ import annotations

from collections.abc import Callable

# Called with (job's label, what is being done, steps done, steps in all).
JobProgress = Callable[[str, str, int, int], None]
# The label under which the count of finished jobs is reported.
ALL_JOBS = "all jobs"
# Final progress message of a job, whatever its outcome.
ENDED = "ended"
