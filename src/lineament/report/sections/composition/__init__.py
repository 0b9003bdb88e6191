"""The section of a composition: two adapters on one base."""
