"""`python -m searcher`."""

from searcher.cli.app import main

main()
