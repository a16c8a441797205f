"""The embedded index: Qdrant Edge in a process of its own.

docs/decisions/0001-edge-in-its-own-process.md says why. `index.py` is the adapter, `live.py` the
shard that answers, `rebuild.py` how its search graph is built aside; `client.py` and `process.py`
are the two ends of the channel that `protocol.py` describes; only `shard.py` calls Edge.
"""
