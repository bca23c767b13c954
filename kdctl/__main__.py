"""`python -m kdctl`."""

from kdctl.cli import main

main()
