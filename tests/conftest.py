"""What holds for every test: chance is printed, and no law is timed."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "kimiya", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", parent=settings.get_profile("kimiya"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "kimiya")
