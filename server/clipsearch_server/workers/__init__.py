"""Several processes that serve on one port, since one process uses about one core."""
