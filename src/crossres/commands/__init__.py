"""The commands: parse, call, print; a file each."""
