"""What geoopt says of its own decorators reaches no user."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes


def test_importing_geoopt_warns_of_nothing():
    module = "archzoo.layers.hyperbolic.geoopt_bridge.quiet_geoopt"
    code = f"from {module} import geoopt; print(geoopt.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("geoopt\n", "")
