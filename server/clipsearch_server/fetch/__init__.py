"""URL -> bytes, safely: what strangers name, this server opens from inside its network."""
