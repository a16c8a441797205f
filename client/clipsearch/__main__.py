"""``python -m clipsearch``: the ``clipsearch`` command."""

from clipsearch import main

main()
