"""The parser of a command whose options are few."""

from __future__ import annotations

import argparse
from typing import NoReturn

from crossres.core.errors import CrossresError, nearest


class CommandParser(argparse.ArgumentParser):
    """argparse with errors of one line that name the nearest option; defaults are shown, none is abbreviated."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        word = message.rpartition("unrecognized arguments: ")[2].split(maxsplit=1)[0].split("=")[0]
        if "unrecognized" in message and word.startswith("--"):
            known = [option for action in self._actions for option in action.option_strings if option[:2] == "--"]
            raise CrossresError(f"unknown option {word}{nearest(word, known)}")
        raise CrossresError(f"{message}; see {self.prog} --help")
