"""Measures what a run costs, as ratios of times on the same machine (``gradgen bench``)."""

PARTS = ("loops", "scaling", "startup", "precision", "mixing")
USUAL = PARTS[:4]  # mixing takes two hours on two cores
