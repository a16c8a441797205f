"""Exports a CLIP checkpoint to the ONNX model folder that clipsearch serves."""
