"""Decodes images in processes that may crash: an adapter of the port `ImageDecoder`."""
