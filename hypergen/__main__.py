"""Run the command line as `python -m hypergen`, also below `accelerate launch -m hypergen`."""

import sys

from hypergen.cli.main import main

sys.exit(main())
