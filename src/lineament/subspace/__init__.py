"""Training in few directions: any torch optimizer on the coefficients of a plane, with planes refreshed in time."""
