"""The remote index: a Qdrant server or cluster, over gRPC.

`index.py` is the adapter; `connection.py` reaches Qdrant, `collection.py` makes a collection and
knows whether it is ours, `faults.py` says what Qdrant's errors mean to us.
"""
