"""Opening the group of a worker's processes, and the mesh that its layout makes of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ...protos.common_pb2 import JobSpecification
from ...protos.errors import SettingError
from ..config import WorkerConfig
from ..grid import Grid
from ..layout import DIMENSIONS, Layout, parse_layout
from .group import Ranks, SoleRank

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def open_ranks(config: WorkerConfig) -> Ranks:
    """The processes of this worker: torch's default group, initialised from the environment if it is not yet.

    On a machine with GPUs this process works on the one that its local rank names.
    """
    if config.num_ranks == 1:
        return SoleRank()
    # Imported here: half a second that a worker of one process does not pay.
    import torch.distributed as dist

    from .process_group import ProcessGroupRanks

    opened_here = not dist.is_initialized()
    if opened_here:
        if torch.cuda.is_available():
            torch.cuda.set_device(config.local_rank % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return ProcessGroupRanks(opened_here)


def layout_with(num_ranks: int, declared: Sequence[str]) -> Layout:
    """The job's layout with this many ranks.

    Raises:
        SettingError: there is none, or more than one.
    """
    fitting = [layout for layout in map(parse_layout, declared) if layout.num_ranks == num_ranks]
    if len(fitting) != 1:
        found = ", ".join(layout.spec for layout in fitting) or "none"
        raise SettingError(
            f"this worker has {num_ranks} ranks and no layout; of the job's layouts ({', '.join(declared) or 'none'}) {found} "
            "fit. Name it: connect(layout=...), PUSHPULL_LAYOUT or --layout, for example tp2; and declare it in the job's "
            "`layouts`"
        )
    return fitting[0]


def layout_mesh(layout: Layout) -> "DeviceMesh":
    """The mesh of a worker's ranks. Every rank calls this together."""
    from torch.distributed.device_mesh import init_device_mesh

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return init_device_mesh(device, layout.degrees, mesh_dim_names=DIMENSIONS)


def grid_of(job: JobSpecification) -> Grid:
    """Where the job's layouts cut."""
    return Grid(
        tuple(parse_layout(layout) for layout in job.layouts),
        tuple((split.pattern, split.dimension) for split in job.tensor_splits),
    )
