"""`python -m rnnfast`: the command line."""

from .cli import main

main()
