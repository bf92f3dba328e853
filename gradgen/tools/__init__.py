"""Tools for gradgen's developers, such as weight conversion. Nothing imports them at run time."""
