"""`python -m hd_agents` is `hd-agents`."""

import sys

from hd_agents.cli import main

sys.exit(main())
