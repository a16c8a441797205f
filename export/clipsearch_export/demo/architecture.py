"""The sizes of the demo model, as the transformers configuration that travels with it."""

from __future__ import annotations

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

from clipsearch_export.demo import vocabulary
from clipsearch_export.demo.teacher import DIM

IMAGE_SIZE = 64  # px, square
PATCH_SIZE = 8  # px: 64 patches, so that a thin line has a shape within one
# OpenAI's mean and standard deviation of RGB, so that any CLIP processor fits.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def text_config() -> CLIPTextConfig:
    """About 4.6 million parameters, of which the vocabulary has 2.1."""
    return CLIPTextConfig(
        vocab_size=vocabulary.SIZE,
        max_position_embeddings=vocabulary.MAX_TOKENS,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=vocabulary.START_ID,
        # Not 2: transformers reads that as "pool at the highest id", a legacy of old checkpoints.
        eos_token_id=vocabulary.END_ID,
        pad_token_id=vocabulary.END_ID,
        projection_dim=DIM,
    )


def vision_config() -> CLIPVisionConfig:
    """About 2 million parameters."""
    return CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=DIM,
    )


def clip_config() -> CLIPConfig:
    """Both towers: about 6.5 million parameters, 13 MB in half precision."""
    return CLIPConfig(
        text_config=text_config().to_dict(),
        vision_config=vision_config().to_dict(),
        projection_dim=DIM,
    )
