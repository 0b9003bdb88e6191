"""The points of a study, by the labels that files and records carry.

Files and records keep the protocol's symbols (theta_star, theta_broken): they are formats that others read. Code and
prose say trained and damaged.
"""

from __future__ import annotations

START = "start"  # where the problem is made
EARLY = "early"  # after the first steps of training from there: a fresh adapter has no gradient for A
TRAINED = "star"  # the operating point
DAMAGED = "broken"
RECOVERED = "recovered"

# What is known before damage, kept in one file that all targets of a seed share.
BEFORE_DAMAGE = (START, EARLY, TRAINED)
# Where every task is evaluated.
EVALUATED = (START, TRAINED, DAMAGED, RECOVERED)
