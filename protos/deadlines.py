"""How long the end of a process may take: one table, because whoever waits must wait longer than what it waits for needs.

    worker process     SIGTERM: leaves the job at once, then what is left of its script    WORKER_END
    server process     SIGTERM: drains, the parts of it one after the other                SERVER_END
    whoever kills      never before these: a launcher after WORKER_KILL and SERVER_KILL, a container, pod or unit after
                       STOP_GRACE, which is more than the time that is promised for both   PROMISED_END

Ctrl-C is a person's, who can press it again: scripts get INTERRUPT for what they do on KeyboardInterrupt, and then a SIGTERM.
All in seconds.
"""

PROMISED_END_SECONDS = 12.0
"""From SIGTERM until a worker or a server is gone; after that nobody waits any more."""
STOP_GRACE_SECONDS = 15.0
"""What containers, charts and units in this repository wait before they kill."""
INSISTS_AFTER_SECONDS = 1.0
"""A second signal ends a process at once, unless it comes so soon that it is the first one sent twice, also to its group."""

WORKER_END_SECONDS = 8.0
"""From SIGTERM to the end of a worker process, whatever it is doing."""
SERVER_END_SECONDS = 10.5
"""From SIGTERM, or the end of the job, to the end of a server process: more than all parts of its drain together."""

# The parts of a drain: the registrar waits for the open round, ...
ROUND_SECONDS = 4.0
"""How long the open round may take to close; then it is dropped."""
OVER_SECONDS = ROUND_SECONDS + 0.5
"""... its order that the job is over arrives, ..."""
APPLY_SECONDS = 1.5
"""... what is decided is applied, ..."""
NOTICE_SECONDS = 1.5
"""... workers without a stream learn it from their heartbeat, at most a second apart, ..."""
STATUS_SECONDS = 1.0
"""... within the same time, shard 0 answers questions about the status for as long as this, ..."""
UNLINK_SECONDS = 0.5
"""... shard 0 waits for the other shards, which end too, ..."""
CALLS_SECONDS = 1.0
"""... and calls that do not end by themselves are cancelled."""

NOTICED_SECONDS = 0.5
"""That a process needs to be gone after it decided to, and its starter to see it."""
WORKER_KILL_SECONDS = WORKER_END_SECONDS + NOTICED_SECONDS
"""From SIGTERM until a starter kills a worker, or a rank of one, that is still there."""
SERVER_KILL_SECONDS = SERVER_END_SECONDS + NOTICED_SECONDS
"""The same for a server."""
INTERRUPT_SECONDS = 30.0
"""From Ctrl-C until a starter sends SIGTERM to a worker whose script still saves."""
