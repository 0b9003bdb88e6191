"""How far random steps reach: the best of N against what gradient and curvature predict."""

from __future__ import annotations

from lineament.report.sections.random_search.counts import counts_picture
from lineament.report.sections.random_search.sizes import dimension_picture
from lineament.report.sections.random_search.subspaces import density_picture, own_sigma_picture
from lineament.report.sections.random_search.tables import (
    density_table,
    departure_table,
    geometry_table,
    point_table,
    transfer_table,
)
from lineament.report.sections.random_search.theorem import theorem_picture
from lineament.report.sections.section import Section, each

SECTION = Section(
    "random_search",
    "How far random steps reach",
    "the best of N random steps, against what gradient and curvature predict",
    pictures=each(theorem_picture, counts_picture, density_picture, own_sigma_picture, dimension_picture),
    tables=each(departure_table, point_table, transfer_table, density_table, geometry_table),
)
