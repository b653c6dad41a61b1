"""Activation statistics for one's own model: how often each FFN neuron fires over the user's text.

The walk: `text` reads documents, `model` opens a Hugging Face folder (door: transformers), `families` finds the neurons
of every layer, `arrange` makes batches, `count` counts, `checkpoint` makes it resumable, `agreement` says whether the
text was enough, `folder` writes what the engine's model folder wants, and `run` puts them in order.

A model that does not fit (`room`) is counted layer by layer: `weights` (door: safetensors) and `open_layers` read one
layer, `layered` runs it, `hidden` keeps what it made, `streaming` walks a block of batches through all of them. `ranks`
lets several processes share a count, `merge` adds finished ones.
"""
