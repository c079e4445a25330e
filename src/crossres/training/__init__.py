"""From options to a finished run: preparation, loop, losses, result."""
