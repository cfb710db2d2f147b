"""Names of parameters, whoever says them."""

WRAPPER_COMPONENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Path components that torch.compile and other wrappers add to names."""


def plain_name(name: str) -> str:
    """A dotted name without what wrappers added."""
    return ".".join(part for part in name.split(".") if part not in WRAPPER_COMPONENTS)
