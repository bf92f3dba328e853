"""What samples are worth: metrics, comparisons of runs, diagnostics, the paper's experiments."""
