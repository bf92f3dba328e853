"""What a run costs: ratios measured in one go, on the machine at hand (``gradgen bench``)."""
