"""The options of every command, and how they are read."""
