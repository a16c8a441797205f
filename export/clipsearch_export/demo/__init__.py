"""The demo model: a small CLIP trained from scratch on emoji drawings.

It exists so that a machine without a model hub shows real text-to-image retrieval; it knows
emoji and nothing of photographs. Read the stages in the order they run:

    sources -> emoji -> pictures          what is drawn, in which styles
    phrases -> teacher                    what is said, and what it means
    vocabulary -> text_tower              a text tower distilled from the teacher
    augment -> vision_tower               a vision tower that learns to meet it
    checkpoint -> queries -> score        one Hugging Face folder, and honest numbers about it
    samples                               the pictures that ``make demo`` adds

``python -m clipsearch_export.demo train`` runs them all and resumes where it stopped.
"""
