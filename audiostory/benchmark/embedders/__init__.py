"""Networks that turn recordings into features, and what they need: one way to read, one resampler, a cache.

`embedding.embed` is the way in. The networks are small files of our own with the key names of published weights, which
are given by path: nothing is ever downloaded. No published weights could be had where this was written. What is proven
is names and shapes, the arithmetic of the front ends, and the sizes of outputs; values with the real weights are not.
"""
