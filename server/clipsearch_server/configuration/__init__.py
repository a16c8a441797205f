"""Where the values of the settings come from.

A flag wins over an environment variable, that over the TOML file, and that over the default. The
setting ``fetch.timeout_s`` is the flag ``--fetch-timeout-s``, the variable
``CLIPSEARCH_FETCH_TIMEOUT_S`` and, in TOML, ``timeout_s`` in the table ``[fetch]``. What is a list
in TOML is a text with commas elsewhere.
"""

from clipsearch_server.configuration.show import show
from clipsearch_server.configuration.sources import load_settings

__all__ = ["load_settings", "show"]
