"""Natural training: the accuracy that robustness is paid from.

Descends CE(S(x), y); there is no adversary.
"""

from mmard.core.method import Method
from mmard.terms import hard_nat
from mmard.utils.calls import checked


@checked
def standard() -> Method:
    """Natural training: CE on natural images, no attack."""
    return Method(name="standard", outer=hard_nat)
