"""Runs: from settings to a folder of pictures, and on from where one stopped."""
