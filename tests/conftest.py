"""What every test run shares: one Hypothesis profile, and a header that says with what it ran."""

from __future__ import annotations

import os
from importlib.metadata import version

from hypothesis import HealthCheck, settings

# Times vary on shared machines, so a slow example is no failure; a failing one prints how to repeat it.
settings.register_profile(
    "commonweight", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", settings.get_profile("commonweight"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "commonweight"))


def pytest_report_header() -> str:
    libraries = ("torch", "numpy", "web3", "hypothesis")
    return "with: " + ", ".join(f"{name} {version(name)}" for name in libraries)
