"""Run the command line by `python -m metabench`."""

from metabench.cli import main

main()
