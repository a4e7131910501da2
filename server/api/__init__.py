"""The APIs of the wire: a folder each, with its address, its types, what it asks of a model, and its answers."""
