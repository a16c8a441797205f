"""``clipsearch reembed``: a collection's images into another collection, with another model.

plan finds out from where to where; merge looks at both collections side by side, ordered by id;
originals finds an image's pixels; copier brings the target what it lacks; run looks and copies
until there is nothing to do, switches the aliases, and looks for what was written meanwhile.

The target itself is the journal: a run that ended early is gone on with by running it again.
"""
