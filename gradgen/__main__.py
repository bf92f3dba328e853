"""`python -m gradgen` is the `gradgen` program."""

import sys

from gradgen.cli.app import main

sys.exit(main())
