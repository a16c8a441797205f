"""``clipsearch index``: a data set into a server, in a way that one can walk away from.

A source (folder, text_list, table, parquet, coco, webdataset, failures) yields entries; read_ahead
reads them in a thread, as far as the journal does not know them; sender sends them, writes what
became of each into the journal and tells the report.
"""
