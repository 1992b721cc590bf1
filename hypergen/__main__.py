"""`python -m hypergen` and `accelerate launch -m hypergen`."""

import sys

from hypergen.cli import main

sys.exit(main())
