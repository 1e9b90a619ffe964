"""geoopt, imported without the warnings of its own import. Takes seconds, so import it late.

geoopt 0.5.1 decorates its functions with `torch.jit.script`, which torch calls deprecated; a user
of the command line can do nothing about that, and an error should be the one line that is printed.
"""

import warnings

__all__ = ["geoopt"]

with warnings.catch_warnings():
    for kind in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", "`torch.jit.script", kind)
    import geoopt
