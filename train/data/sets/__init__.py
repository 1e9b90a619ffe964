"""The registered data sets, one file each; a new file needs no line here."""

from ....zoo.registry import import_parts

import_parts(__name__, __path__)
