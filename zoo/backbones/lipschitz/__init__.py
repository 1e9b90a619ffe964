"""Networks with a Lipschitz constant by construction, whose blocks have a skip of their own."""

from ...registry import import_parts

import_parts(__name__, __path__)
