"""What an incarnation is told that is live no more, where how it ended is not known any more. Pure."""


def gone_long_ago(worker_id: int, incarnation: int) -> str:
    """For people who ask about an incarnation of which only that it was granted is known."""
    return (
        f"incarnation {incarnation} of worker {worker_id} ended long ago: it left, its lease ran out, or a newer process took "
        "its place; start this worker again"
    )
