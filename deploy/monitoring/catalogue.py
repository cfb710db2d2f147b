"""All dashboards."""

from .network import NETWORK
from .overview import OVERVIEW
from .servers import SERVERS
from .staleness import STALENESS_AND_CONVERGENCE
from .workers import WORKERS

DASHBOARDS = (OVERVIEW, SERVERS, WORKERS, NETWORK, STALENESS_AND_CONVERGENCE)
