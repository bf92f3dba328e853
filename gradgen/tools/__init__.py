"""Tools for gradgen's developers, such as weight conversion. The program does not import them."""
