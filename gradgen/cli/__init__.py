"""The command line: one file a subcommand. Imports the rest; nothing imports it."""
