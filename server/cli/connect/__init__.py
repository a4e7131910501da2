"""How other programs are told of this server: for each, what to write where. Knows their formats; writes nothing.

`clients.py` has one function per program, `merging.py` fits settings into a file that is there, `writing.py` writes.
"""
