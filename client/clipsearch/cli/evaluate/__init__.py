"""``clipsearch evaluate`` and ``linear-probe``: how good the results are.

pairs and labelled_folder read a data set; fill puts its images into a collection, or gallery finds
them in one; ranking compares everything with everything, and metrics and probe make figures of it;
index_quality asks the index itself; tables and page show it all. Only command may be imported
without numpy and scikit-learn: the extra ``[evaluate]``.
"""
