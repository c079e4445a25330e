"""``crossres page``."""

import signal
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from crossres.commands.parsing import Request
from crossres.commands.printing import note
from crossres.config.deployment import Page
from crossres.core.errors import CrossresError


def run(options: Page, request: Request) -> None:  # noqa: ARG001 every command is called alike
    """Serve the page until Ctrl-C."""
    if find_spec("gradio") is None:
        raise CrossresError("the page needs gradio: pip install 'crossres[page]'")
    if not 0 < options.port < 2**16:
        raise CrossresError(f"--port {options.port}: a port is a number from 1 to {2**16 - 1}")
    try:
        socket.create_server((options.host, options.port)).close()
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise CrossresError(
            f"cannot listen at {options.host}, port {options.port}: {why}; choose another --port or --host"
        ) from None
    from crossres.deploy.page import serve
    from crossres.deploy.service import shown

    # a stop from outside deletes the uploads, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="crossres-page-") as folder:
        models = shown(options, Path(folder), note)
        serve(models, Path(folder) / "uploads", options.host, options.port)
