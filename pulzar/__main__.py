"""`python -m pulzar`: the command line, from a clone."""

import sys

from pulzar.command.main import main

sys.exit(main())
