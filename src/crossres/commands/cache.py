"""``crossres cache`` and ``faces cache``."""

from crossres.commands.parsing import Request
from crossres.commands.printing import show
from crossres.config.experiment import Cache, FacesCache


def run(options: Cache | FacesCache, request: Request) -> None:  # noqa: ARG001 every command is called alike
    """Fill the cache; print where it is and of how many images."""
    from crossres.training.cache import fill_cache

    if filled := fill_cache(options):
        show(f"{filled['cache_dir']}: outputs of {options.teacher} on {filled['images']:,} images")
