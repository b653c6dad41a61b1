"""Activation statistics for one's own model: how often each FFN neuron fires over the user's text.

The walk: `text` reads documents, `model` opens a Hugging Face folder (door: transformers), `families` finds the neurons
of every layer, `count` counts, `checkpoint` makes it resumable, `agreement` says whether the text was enough, `folder`
writes what the engine's model folder wants, and `run` puts them in order.
"""
