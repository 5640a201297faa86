"""``python -m storyzoo`` is ``zoo``."""

import sys

from storyzoo.cli import main

sys.exit(main())
