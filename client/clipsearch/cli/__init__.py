"""The ``clipsearch`` command: the extra ``[cli]``, built on the public client only."""
