"""Files of weights: where they are, how they are read and written."""
