"""Where compiled kernels are kept on disk.

Numba looks for a folder that may be written, and finds nothing in any other. So kernels that an administrator or an image
compiled ahead would be compiled again by everybody who may only read them, and where nothing may be written at all (a
read-only root file system) numba refuses to start.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator


class _BesideTheSources(InTreeCacheLocator):
    """The folder beside the sources, whether or not it may be written."""

    def ensure_cache_path(self) -> None:
        pass


class _AheadPlace(CompileResultCacheImpl):
    _locator_classes = [_BesideTheSources]  # noqa: RUF012 - numba declares a list


class _OwnPlace(CompileResultCacheImpl):
    _locator_classes = [*CompileResultCacheImpl._locator_classes, _BesideTheSources]  # noqa: RUF012 - numba declares a list


class _AheadCache(FunctionCache):
    _impl_class = _AheadPlace


class _OwnCache(FunctionCache):
    _impl_class = _OwnPlace


class KernelCache:
    """The compiled forms of one kernel; what numba's dispatcher asks.

    It reads from this user's folder, then from the one beside the sources, and writes to the first. What cannot be written is
    kept in memory only.
    """

    def __init__(self, function: Callable[..., Any], source_stamp: str) -> None:
        """`source_stamp`: kernels that were written with another one are not read."""
        caches: list[Any] = [kind(function) for kind in (_OwnCache, _AheadCache)]
        self._own, self._ahead = caches
        for cache in caches:
            cache._cache_file._source_stamp = source_stamp

    @property
    def cache_path(self) -> str:
        """The folder that is written to."""
        path: str = self._own.cache_path
        return path

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled form for this signature and processor, or None."""
        found = self._own.load_overload(signature, target_context)
        return found if found is not None else self._ahead.load_overload(signature, target_context)

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keeps a compiled form, if there is a place for it."""
        with suppress(OSError):
            self._own.save_overload(signature, compiled)
