"""Bedrock beyond a single call: inference profiles, which id a region accepts, CloudWatch.

``profiles`` holds the values, ``control`` the calls of the control plane, ``resolver`` what a
written model id means in a region; ``metrics`` and ``dashboard`` are for CloudWatch.
"""
