"""`python -m gato_agent` is `gato-agent`."""

from gato_agent.cli import main

if __name__ == "__main__":
    main()
