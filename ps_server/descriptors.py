"""How many files and sockets this process may have open."""

import resource

import structlog

log = structlog.get_logger(__name__)


def raise_descriptor_limit() -> int:
    """Raises the soft limit to the hard one, which is what it is for; returns the limit that holds from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files stays as it is", limit=soft, reason=str(error))
        return soft
    return hard
