"""Mixture-of-experts models: what each expert weighs, what everything else weighs, and what their KV cache takes."""
