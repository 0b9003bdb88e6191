"""Every measurement by name, with the module that holds it as `MEASUREMENT`. To add one, add its line.

Modules are named here and imported when one is asked for (`measurement.measurement_named`): presets, `--help` and
usage errors list the names without the seconds that torch takes to import.
"""

from __future__ import annotations

# In the order in which they are measured.
MEASUREMENTS: dict[str, str] = {
    "gradient_rank": "lineament.measurements.gradient_rank",
    "basis_capture": "lineament.measurements.basis_capture",
    "capture_by_horizon": "lineament.measurements.capture_by_horizon",
    "capture_without_momentum": "lineament.measurements.capture_without_momentum",
    "basis_drift": "lineament.measurements.basis_drift",
    "random_search": "lineament.measurements.random_search",
    "steering": "lineament.measurements.steering",
    "local_geometry": "lineament.measurements.local_geometry.measurement",
}
