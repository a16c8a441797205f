"""``clipsearch query``: command reads the options, terms makes queries of them, search asks the
server, show tells what it found, and batch does it for a file of texts."""
