"""How expressions are written here: every series is narrowed to what is chosen at the top of the dashboard."""

INTERVAL = "$__rate_interval"


def job(metric: str, *matchers: str) -> str:
    """Series of the chosen job; `matchers` such as `phase="training"`."""
    return _series(metric, 'job_id=~"$job_id"', *matchers)


def server(metric: str, *matchers: str) -> str:
    """Series of the chosen servers."""
    return _series(metric, 'job_id=~"$job_id"', 'shard=~"$shard"', *matchers)


def worker(metric: str, *matchers: str) -> str:
    """Series of the chosen workers."""
    return _series(metric, 'job_id=~"$job_id"', 'worker=~"$worker"', *matchers)


def rate(series: str) -> str:
    """Per second."""
    return f"rate({series}[{INTERVAL}])"


def increase(series: str) -> str:
    """Within one point of the graph."""
    return f"increase({series}[{INTERVAL}])"


def total(expression: str, *by: str) -> str:
    """Sum over everything but these labels."""
    return f"sum by ({', '.join(by)}) ({expression})"


def largest(expression: str, *by: str) -> str:
    """Maximum over everything but these labels."""
    return f"max by ({', '.join(by)}) ({expression})"


def quantile(share: float, histogram: str, *by: str) -> str:
    """Of a histogram's buckets: `histogram` is the series of `..._bucket`."""
    return f"histogram_quantile({share}, {total(rate(histogram), 'le', *by)})"


def mean(numerator: str, denominator: str, *by: str) -> str:
    """Of two counters: so much of the first for each one of the second."""
    return f"{total(rate(numerator), *by)} / {total(rate(denominator), *by)}"


def since(timestamp: str) -> str:
    """Seconds since a time."""
    return f"time() - {timestamp}"


def _series(metric: str, *matchers: str) -> str:
    return f"{metric}{{{','.join(matchers)}}}"
