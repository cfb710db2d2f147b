"""What a codec promises of its frames: the statements that property tests check for every specification."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What holds for D, the decoded frame of x, for every finite x. This one is that of codecs that send every
    element; each selection of elements derives its own.

    `absolute_error` is what the underflow of subnormal numbers may add to each element. A finite number that
    would round to infinity becomes the largest finite number of its format.
    """

    unbiased: bool = False
    """The mean of D over seeds is x, unless D is limited to the largest finite number."""
    deterministic: bool = True
    """D does not depend on the seed."""
    relative_error: float = 0.0
    """|D_i - x_i| <= relative_error * (largest |x| of the quantiser's block) for an element that is sent."""
    squared_error: float = 0.0
    """||D - x||^2 <= squared_error * ||x||^2 over the elements that are sent; the mean over seeds of a codec
    that draws."""
    absolute_error: float = 0.0

    def band(self, num_elements: int) -> tuple[int, int]:
        """Fewest and most elements that are sent of a block of `num_elements`."""
        return num_elements, num_elements

    def factor(self, num_elements: int) -> float:
        """What an element that is sent is multiplied by."""
        return 1.0

    def delta(self, num_elements: int) -> float | None:
        """Contraction: ||D - x||^2 <= (1 - delta) * ||x||^2, in the mean over seeds for a codec that draws.

        None for a codec that does not contract, or is without bias by drawing: it states `omega`.
        """
        return 1.0 - self.squared_error if self.admits_error_feedback else None

    def omega(self, num_elements: int) -> float | None:
        """Variance of an unbiased codec: mean of ||D - x||^2 <= omega * ||x||^2. None for a biased codec."""
        return self.squared_error if self.unbiased else None

    def max_error(self, absmax: float) -> float:
        """Largest |D_i - x_i| of an element that is sent, in a quantiser block whose largest magnitude is
        `absmax`."""
        return self.relative_error * absmax + self.absolute_error

    @property
    def admits_error_feedback(self) -> bool:
        """What a frame leaves out stays bounded when the next frame has to make up for it.

        That holds where delta > 0, and where each element left out is itself bounded. Around a codec that is
        without bias by drawing, e.g. rand-k times n/k, the residual would grow without bound.
        """
        return self.deterministic or not self.unbiased


def share_of(density: float, num_elements: int) -> int:
    """`density` of the elements, rounded: at least one of a block that has any."""
    return min(num_elements, max(1, int(density * num_elements + 0.5)))
