"""``python -m kimiya``: the same as the command ``kimiya``."""

import sys

from kimiya.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
