"""The steps of ``adapt``, one module for each thing of a request they look after.

A step takes a ``Draft``, changes its request where the card or the dialect asks for it, and notes
each change. A step that has nothing to do costs a comparison or two.
"""
