"""`python -m gato_agent` is `gato-agent`."""

import sys

from gato_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
